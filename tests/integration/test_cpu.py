"""CPUs and topology: what the nodes' hypervisors can give to guests, and what a move keeps of it."""

import json
from pathlib import Path

import pytest

from vms import Guest, drover, error_of, wait_for

# Emulated by QEMU 10.0 and not by 7.2.
NEW = "sha-ni"
# A machine type that both have.
OLD_MACHINE = "pc-q35-7.2"


def cpu_report(node, *nodes):
    _, (report,) = drover(node, "cpu", *nodes)
    return report


def cpu_argument(guest, node):
    """What the hypervisor of a VM was given for its CPU."""
    (pid,) = guest.pids(node)
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("-cpu") + 1]


def definition(node, vm):
    _, (info,) = drover(node, "show", vm)
    return dict(line.split(" = ", 1) for line in info["conf"].splitlines() if " = " in line)


def use_qemu(node, version):
    node.stop_daemon()
    node.write_conf(version)
    node.start_daemon()


def entry(report, node):
    return next(n for n in report["nodes"] if n["node"] == node.name)


class Cluster:
    """Three nodes with QEMU 10.0, on which VM `rich` was started; then node3 came up with 7.2."""

    def __init__(self, lab):
        self.lab = lab
        self.nodes = lab.nodes
        self.before = cpu_report(self.nodes[0])
        self.rich = Guest(lab, self.nodes[0], "rich", memory="128M", fill=False,
                          options=["--machine", OLD_MACHINE])
        use_qemu(self.nodes[2], "7.2")


@pytest.fixture(scope="module")
def cluster(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return Cluster(make_lab("cpu", nodes=3))


def test_nodes_that_are_alike_give_the_most(cluster):
    assert cluster.before["differ"] == [] and cluster.before["vms"] == []
    assert [n["lacks"] for n in cluster.before["nodes"]] == [[], [], []]
    (group,) = cluster.before["baselines"]
    assert group["nodes"] == ["node1", "node2", "node3"]
    assert NEW in group["features"] and "avx2" in group["features"]
    # Not what could not be taken along for certain.
    assert not {"vmx", "svm", "la57", "hle"} & set(group["features"])


def test_a_node_that_comes_up_with_less_is_named_with_its_cost(cluster):
    node1, _, node3 = cluster.nodes
    report = cpu_report(node1)
    assert NEW in report["differ"]
    assert NEW in entry(report, node3)["lacks"] and entry(report, node1)["lacks"] == []
    assert NEW in entry(report, node3)["without_it"]
    (group,) = report["baselines"]
    assert NEW not in group["features"] and "avx2" in group["features"]
    assert "can give guests less" in node3.log.read_text() and NEW in node3.log.read_text()


def test_only_the_named_nodes_count(cluster):
    node1 = cluster.nodes[0]
    report = cpu_report(node1, "node1", "node2")
    assert [n["node"] for n in report["nodes"]] == ["node1", "node2"] and report["differ"] == []
    assert NEW in report["baselines"][0]["features"]
    status, documents = drover(node1, "cpu", "node9", check=False)
    assert error_of(documents)["kind"] == "no-node" and status == error_of(documents)["exit"]


def test_a_guest_keeps_what_it_was_given_and_goes_where_that_is(cluster):
    node1, node2, node3 = cluster.nodes
    rich = cluster.rich
    given, inside = cpu_argument(rich, node1), rich.ask("cpu")["features"]
    kept = definition(node1, "rich")
    assert kept["cpu"] == "baseline" and f"+{NEW}" in kept["cpu_in_force"]

    (stuck,) = cpu_report(node1)["vms"]
    assert stuck["vm"] == "rich" and [to["node"] for to in stuck["cannot_move_to"]] == ["node3"]
    assert NEW in stuck["cannot_move_to"][0]["missing"]
    assert "rich" in node3.log.read_text()

    status, documents = drover(node1, "migrate", "rich", "node3", check=False)
    assert error_of(documents)["kind"] == "hypervisor" and status == error_of(documents)["exit"]
    assert NEW in error_of(documents)["message"] and "node3" in error_of(documents)["message"]

    # What vm.conf says for the next start changes nothing of the guest that runs.
    drover(node1, "set", "rich", "cpu=qemu64")
    assert definition(node1, "rich")["cpu_in_force"] == kept["cpu_in_force"]
    drover(node1, "migrate", "rich", "node2")
    assert cpu_argument(rich, node2) == given
    assert rich.ask("cpu")["features"] == inside
    assert [v["vm"] for v in cpu_report(node3)["vms"]] == ["rich"]
    drover(node2, "migrate", "rich", "node1")
    assert cpu_argument(rich, node1) == given


def test_a_guest_started_now_moves_between_both_hypervisors(cluster):
    node1, node2, node3 = cluster.nodes
    guest = Guest(cluster.lab, node3, "mixed", memory="128M", fill=False,
                  options=["--machine", OLD_MACHINE, "--sockets", "2"])
    given, inside = cpu_argument(guest, node3), guest.ask("cpu")
    assert NEW not in given and "avx2=on" in given
    assert [(c["core"], c["socket"]) for c in inside["cpus"]] == [(1, 1), (1, 1)]
    for source, target, options in ((node3, node1, ["--pause"]), (node1, node2, [])):
        drover(source, "migrate", "mixed", target.name, *options)
        assert cpu_argument(guest, target) == given
        assert guest.ask("cpu") == inside
    assert "mixed" not in [v["vm"] for v in cpu_report(node1)["vms"]]
    guest.remove(node2)
