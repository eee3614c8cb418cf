"""CPUs and topology: what the nodes' hypervisors can give to guests, and what a move keeps of it."""

import json
from pathlib import Path

import pytest
from droverlab.lab import SHARED

from vms import Guest, drover, error_of

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


def join_anew(node, first, version):
    """Takes a node out of the cluster and in again, with another QEMU; what `join` prints."""
    drover(first, "node", "rm", node.name, "--yes")
    node.stop_daemon()
    node.run("droverd", "--config", f"{SHARED}/drover.conf", "--forget")
    node.write_conf(version)
    node.start_daemon()
    token = first.drover("token")["token"]
    return node.run("drover", "join", first.address, "--token", token, "--name", node.name,
                    "--pool", f"{SHARED}/pool", "--own-address", node.address).stdout


def entry(report, node):
    return next(n for n in report["nodes"] if n["node"] == node.name)


class Cluster:
    """Three nodes with QEMU 10.0, on which VM `rich` was started; then node3 joined with 7.2."""

    def __init__(self, lab):
        self.lab = lab
        self.nodes = lab.nodes
        self.before = cpu_report(self.nodes[0])
        self.rich = Guest(lab, self.nodes[0], "rich", memory="128M", fill=False,
                          options=["--machine", OLD_MACHINE])
        self.said_at_join = join_anew(self.nodes[2], self.nodes[0], "7.2")


@pytest.fixture(scope="module")
def cluster(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return Cluster(make_lab("cpu", nodes=3))


def test_nodes_that_are_alike_give_the_most(cluster):
    assert cluster.before["differ"] == [] and cluster.before["vms"] == []
    assert [n["lacks"] for n in cluster.before["nodes"]] == [[], [], []]
    (group,) = cluster.before["baselines"]
    assert group["nodes"] == ["node1", "node2", "node3"]
    assert NEW in group["features"] and "avx2" in group["features"]
    # Neither what a guest would take a loss from, nor what may be gone after an update.
    assert not {"vmx", "la57", "hle", "monitor"} & set(group["features"])


def test_a_node_that_joins_with_less_is_named_with_its_cost(cluster):
    node1, _, node3 = cluster.nodes
    report = cpu_report(node1)
    assert NEW in report["differ"]
    assert NEW in entry(report, node3)["lacks"] and entry(report, node1)["lacks"] == []
    assert NEW in entry(report, node3)["without_it"]
    (group,) = report["baselines"]
    assert NEW not in group["features"] and "avx2" in group["features"]
    assert "can give guests less" in node3.log.read_text() and NEW in node3.log.read_text()
    assert "less than the other nodes" in cluster.said_at_join


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


def test_nodes_that_lack_something_are_marked_in_the_list(cluster):
    node1, _, node3 = cluster.nodes
    _, (answer,) = drover(node1, "node", "ls")
    lacks = {n["name"]: n.get("cpu_lacks", []) for n in answer["nodes"]}
    assert NEW in lacks["node3"] and lacks["node1"] == lacks["node2"] == []
    _, (shown,) = drover(node3, "node", "show", "node3")
    assert shown["cpu_lacks"]
    assert NEW in node1.run("drover", "node", "ls").stdout


def test_the_table_for_a_person_says_the_same(cluster):
    report, text = cpu_report(cluster.nodes[0]), cluster.nodes[0].run("drover", "cpu").stdout
    (row,) = [line.split() for line in text.splitlines() if line.startswith(NEW)]
    assert row == [NEW, "yes", "yes", "-"]
    assert "cpu = baseline is now, on node1, node2, node3" in text
    assert "Without node3 it would be" in text
    for vm in report["vms"]:
        assert f"{vm['vm']} on {vm['node']} cannot move to node3: its CPU has" in text


@pytest.mark.parametrize("cpu, kind, part", [
    ("host", "definition", "could not move"),
    ("qemu64,enforce=off", "definition", "+FEATURE"),
    ("qemu64,+avx,-avx", "definition", "twice"),
    ("qemu64,+x,accel=kvm", "definition", "+FEATURE"),
    ("baseline,+avx", "definition", "not the name"),
    ("z80", "hypervisor", "does not know"),
    ("qemu64,+quantum", "hypervisor", "does not know: quantum"),
    ("qemu64,+avx512f", "hypervisor", "lacks: avx512f"),
    ("Skylake-Server-v4", "hypervisor", "lacks:"),
])
def test_a_cpu_that_cannot_be_is_refused_with_why(cluster, cpu, kind, part):
    status, documents = drover(cluster.nodes[0], "create", "odd", "--cpu", cpu, check=False)
    assert error_of(documents)["kind"] == kind and status == error_of(documents)["exit"]
    assert part in error_of(documents)["message"]


def test_an_exact_cpu_is_given_as_it_is_written(cluster):
    node1 = cluster.nodes[0]
    guest = Guest(cluster.lab, node1, "exact", memory="128M", fill=False,
                  options=["--cpu", "Westmere-v1,+avx2,+avx,+xsave,-aes"])
    assert cpu_argument(guest, node1) == "Westmere-v1,avx=on,avx2=on,xsave=on,aes=off,enforce"
    assert "cpu_in_force" not in definition(node1, "exact")
    status, documents = drover(node1, "set", "exact", "cpu_in_force=qemu64", check=False)
    assert status and error_of(documents)["kind"] == "definition"
    leaf1 = int(guest.ask("cpu")["features"]["1.0"].split()[2], 16)
    assert leaf1 >> 28 & 1 and not leaf1 >> 25 & 1  # AVX, and not AES

    # From its next start on it gets what all nodes can give.
    drover(node1, "set", "exact", "cpu=baseline")
    assert definition(node1, "exact")["cpu_in_force"].startswith("Westmere-v1,")
    drover(node1, "stop", "exact", "--timeout", "0")
    drover(node1, "start", "exact")
    baseline = cpu_report(node1)["baselines"][0]["cpu"]
    assert definition(node1, "exact")["cpu_in_force"] == baseline
    assert cpu_argument(guest, node1).startswith(baseline.split(",", maxsplit=1)[0] + ",")
    guest.remove(node1)


@pytest.fixture
def facts(cluster):
    """The facts of node2 in the pool, put back as they were."""
    file = cluster.lab.pool / "nodes" / "node2.facts"
    before = file.read_text()
    yield file
    file.write_text(before)


def change(file, edit):
    record = json.loads(file.read_text())
    edit(record["hypervisor"])
    file.write_text(json.dumps(record))


def test_a_node_with_an_older_drover_is_named_and_does_not_count(cluster, facts):
    change(facts, lambda hypervisor: hypervisor.pop("cpu"))
    report = cpu_report(cluster.nodes[0])
    assert "older" in entry(report, cluster.nodes[1])["problem"]
    assert report["baselines"][0]["nodes"] == ["node1", "node3"]
    assert "older" in cluster.nodes[0].run("drover", "cpu").stdout


@pytest.mark.parametrize("features", ["avx,enforce=off", "avx  avx2", "x" * 70, 7, "a " * 20000])
def test_a_record_of_nonsense_is_named_and_does_not_count(cluster, facts, features):
    change(facts, lambda hypervisor: hypervisor["cpu"].update(features=features))
    report = cpu_report(cluster.nodes[0])
    assert "makes no sense" in entry(report, cluster.nodes[1])["problem"]
    assert report["baselines"][0]["nodes"] == ["node1", "node3"]


def test_a_topology_that_a_machine_cannot_have_is_refused(cluster):
    node1 = cluster.nodes[0]
    status, documents = drover(node1, "create", "wide", "--machine", "pc-q35-2.4", "--sockets", "8",
                               "--cores", "16", "--threads", "2", check=False)
    assert status and error_of(documents)["kind"] == "hypervisor"
    assert "256 vCPUs" in error_of(documents)["message"]
    assert "at most 255" in error_of(documents)["message"]
    status, documents = drover(node1, "create", "wide", "--cores", "0", check=False)
    assert status and error_of(documents)["kind"] == "definition"


def test_a_node_is_drawn_with_its_vms(cluster):
    node1, node2 = cluster.nodes[:2]
    _, (answer,) = drover(node2, "topology", "node1")
    assert answer["node"] == "node1"
    cpus = {c["cpu"] for c in answer["cpus"]}
    listed = {int(p.name[3:]) for p in Path("/sys/devices/system/cpu").glob("cpu[0-9]*")
              if not (p / "online").exists() or (p / "online").read_text().strip() == "1"}
    assert cpus == listed
    places = [Path(f"/sys/devices/system/cpu/cpu{c['cpu']}/topology/physical_package_id")
              for c in answer["cpus"]]
    assert [c["socket"] for c in answer["cpus"]] == [
        int(p.read_text()) if p.exists() else None for p in places]
    (vm,) = [vm for vm in answer["vms"] if vm["name"] == "rich"]
    assert (vm["sockets"], vm["cores"], vm["threads"], vm["state"]) == (1, 1, 1, "running")
    text = node1.run("drover", "topology").stdout
    assert text.startswith("node1: ") and "rich" in text and "1 socket x 1 core x 1 thread" in text
    assert all(f" {cpu} " in text.split("VM  ")[0] for cpu in cpus)
