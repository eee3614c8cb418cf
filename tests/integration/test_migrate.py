"""Moves of real guests between two nodes, and what happens when they fail.

Each test ends with the guest's check of its own memory, with its hypervisor on exactly one node, and,
where the guest moved or was to move, with a TCP connection that an outside client kept.
"""

import itertools
import os
import re
import signal
import subprocess
import threading
import time

import pytest

# The fixtures are used by their names.
from moving import (fixture_guest, fixture_nodes, fixture_shared, fixture_two,  # noqa: F401 pylint: disable=unused-import
                    migration_of, move_in_background, restart_with_fault, wait_rounds)
from vms import (FILL_MIB, Guest, Watch, assert_nothing_is_left, drover, error_of, guest_client,
                 migrations, wait_for)

# A gap that a person at the other end would notice; TCG on a busy machine stays far below.
GAP_MAX_MS = 5000


def test_moves_there_and_back_while_a_client_talks_to_it(nodes, guest):
    node1, node2 = nodes
    with Watch(guest) as watch:
        drover(node1, "migrate", guest.name, "node2")
        guest.assert_runs_only_on(node2)
        drover(node2, "migrate", guest.name, "node1")
        guest.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result
    assert watch.result["longest_gap_ms"] < GAP_MAX_MS, watch.result
    assert_nothing_is_left(node2)
    assert_nothing_is_left(node1, guest.pids(node1))


def test_a_downtime_that_no_switchover_keeps_is_said(nodes, guest):
    node1, node2 = nodes
    said = node1.run("drover", "migrate", guest.name, "node2", "--downtime", "1").stdout
    assert "it stood still for longer than the 1 ms allowed" in said, said
    said = node2.run("drover", "migrate", guest.name, "node1", "--downtime", "60000").stdout
    assert "stood still" in said and "allowed" not in said, said


def test_cbsd_spelling_moves_it_from_any_node(nodes, guest):
    node1, node2 = nodes
    node2.run("bmigrate", f"jname={guest.name}", "node=node2", timeout=120)
    guest.assert_runs_only_on(node2)


@pytest.mark.parametrize("how", ["words", "page"])
def test_moves_while_the_guest_changes_its_memory(nodes, guest, how):
    node1, node2 = nodes
    guest.ask("dirty", 10, how)
    with Watch(guest) as watch:
        _, documents = drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result
    report = documents[-1]["result"]["report"]
    assert report["wire_bytes"] > FILL_MIB << 20, report
    assert report["downtime_ms"] > 0, report


def test_moves_many_times_in_a_row(nodes, guest):
    node1, node2 = nodes
    guest.ask("dirty", 5, "words")
    with Watch(guest) as watch:
        for _ in range(4):
            drover(node1, "migrate", guest.name, "node2")
            drover(node2, "migrate", guest.name, "node1")
    guest.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result


def test_moves_with_a_disk_that_it_goes_on_writing(two, nodes):
    node1, node2 = nodes
    it = Guest(two, node1, "withdisk", disk="disk0.qcow2,size=64M")
    it.ask("disk", "/dev/vda", 50)
    try:
        drover(node1, "migrate", it.name, "node2")
        it.assert_runs_only_on(node2)
        before = it.ask("status")["disk_records"]
        wait_for(lambda: it.ask("status")["disk_records"] > before + 10, "more records")
        assert it.ask("status")["disk_errno"] == 0
    finally:
        it.remove(node2)


def test_pausing_first_moves_it_too(nodes, guest):
    node1, node2 = nodes
    with Watch(guest) as watch:
        drover(node1, "migrate", guest.name, "node2", "--pause")
    guest.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result


def test_a_detached_move_can_be_followed(nodes, guest):
    node1, node2 = nodes
    _, documents = drover(node1, "migrate", guest.name, "node2", "--detach")
    drover(node1, "migration", "follow", documents[-1]["id"])
    guest.assert_runs_only_on(node2)
    _, (shown,) = drover(node1, "migration", "show", documents[-1]["id"])
    assert shown["state"] == "done" and shown["report"]["total_ms"] > 0, shown


def test_the_destinations_part_is_a_task_on_its_queue(nodes, guest):
    node1, node2 = nodes
    drover(node1, "migrate", guest.name, "node2")


    def states():
        _, (answer,) = drover(node1, "task", "ls", "--node", "node2")
        return [t["state"] for t in answer["tasks"] if t["argv"][0] == "receive"]

    # It ends after the guest runs there, of which the source is told.
    wait_for(lambda: "running" not in states(), "the end of the task")
    assert states() and set(states()) == {"done"}


def assert_told_as_moving(nodes, guest):
    """It runs on node1, whichever node is asked; what node2 has of it is told by --local alone."""
    def told(node):
        _, (answer,) = drover(node, "ls")
        _, (shown,) = drover(node, "show", guest.name)
        vms = [vm for vm in answer["vms"] if vm["name"] == guest.name] + [shown]
        # A node waits a second for the other's answer.
        return None if any("problem" in vm for vm in vms) else vms
    for node in nodes:
        for vm in wait_for(lambda node=node: told(node), "an answer of the VM's node"):
            assert (vm["node"], vm["state"], vm["operation"], vm["pid"]) == (
                "node1", "running", "being moved to node2", guest.pids(nodes[0])[0]), (node, vm)
    _, (answer,) = drover(nodes[1], "ls", "--local")
    assert [vm["state"] for vm in answer["vms"] if vm["name"] == guest.name] == ["incoming"]


def assert_node_is_not_removed(node):
    """node2 owns nothing, and is about to."""
    for options in ([], ["--force"]):
        status, answer = drover(node, "node", "rm", "node2", "--yes", *options, check=False)
        assert status and "takes part in a migration" in error_of(answer)["message"], answer


@pytest.mark.parametrize("stop", [signal.SIGINT, None])
def test_a_cancelled_move_leaves_it_running_where_it_was(nodes, guest, stop):
    node1, node2 = nodes
    with Watch(guest) as watch:
        move = move_in_background(node1, guest.name, "node2", "--bandwidth", "1M")
        found = wait_rounds(node1, guest)
        assert_told_as_moving(nodes, guest)
        assert_node_is_not_removed(node1)
        if stop:
            # The first of the processes is nsenter, which has become drover itself.
            move.send_signal(stop)
        else:
            drover(node1, "migration", "cancel", found["id"])
        out, _ = move.communicate(timeout=60)
    assert move.returncode == 27, out
    guest.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(node2)
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)
    moved = migrations(node1, guest)[0]["id"]
    for too_late, how in ((found["id"], "cancelled"), (moved, "moved to node2")):
        status, answer = drover(node1, "migration", "cancel", too_late, check=False)
        assert status and how in error_of(answer)["message"], answer


def test_the_lane_demands_the_certificates_that_the_pool_holds(nodes, guest):
    node1, node2 = nodes
    move = move_in_background(node1, guest.name, "node2", "--bandwidth", "1M")
    found = wait_rounds(node1, guest)
    for node, peer in ((node1, node2), (node2, node1)):
        record = (guest.lab.pool / "nodes" / f"{peer.name}.conf").read_text()
        fingerprint = re.search(r"[0-9a-f]{64}", record).group()
        movers = [words for words in node.processes().values()
                  if words[0].endswith("drover-wire")]
        assert movers and all(fingerprint in words for words in movers), movers
    drover(node1, "migration", "cancel", found["id"])
    move.communicate(timeout=60)
    guest.assert_runs_only_on(node1)


def test_a_move_that_does_not_converge_says_so_at_its_time_limit(nodes, guest):
    node1, _ = nodes
    guest.ask("dirty", 20, "page")
    status, documents = drover(node1, "migrate", guest.name, "node2", "--bandwidth", "2M",
                               "--timeout", "3", check=False)
    assert error_of(documents)["kind"] == "timeout", documents
    assert "--pause" in error_of(documents)["message"]
    assert "a higher --bandwidth" in error_of(documents)["message"], documents
    assert status == error_of(documents)["exit"]
    guest.assert_runs_only_on(node1)


def test_two_moves_of_one_vm_at_once_are_one_move_and_one_refusal(nodes, guest):
    node1, node2 = nodes
    gate = f"{guest.lab.directory}/first"
    restart_with_fault(node1, f"migrate.src.during_rounds:file={gate}")
    first = move_in_background(node1, guest.name, "node2")
    wait_rounds(node1, guest)
    status, documents = drover(node2, "migrate", guest.name, "node2", check=False)
    assert error_of(documents)["kind"] == "busy" and status == error_of(documents)["exit"]
    cancels = f"`drover migration cancel {migrations(node1, guest)[0]['id']} --node "
    for node, verb in itertools.product(nodes, ([["stop"], ["rm", "--yes"], ["start"]])):
        status, documents = drover(node, verb[0], guest.name, *verb[1:], check=False)
        error = error_of(documents)
        assert error["kind"] == "busy" and "from node1 to node2" in error["message"], (verb, error)
        assert cancels in error["message"], (verb, error)
    open(gate, "w", encoding="ascii").close()
    first.communicate(timeout=120)
    restart_with_fault(node1, "")
    assert first.returncode == 0
    guest.assert_runs_only_on(node2)


def test_what_cannot_be_moved_is_refused_with_a_status_of_its_own(two, nodes, guest):
    node1, _ = nodes
    off = Guest(two, node1, "off", fill=False)
    drover(node1, "stop", "off", "--timeout", "0")
    seen = {}
    for kind, arguments in {"no-vm": ["nothere", "node2"], "no-node": [guest.name, "node9"],
                            "already-there": [guest.name, "node1"],
                            "not-running": ["off", "node2"], "name": ["../off", "node2"],
                            "usage": [guest.name]}.items():
        status, documents = drover(node1, "migrate", *arguments, check=False)
        assert error_of(documents)["kind"] == kind, documents
        seen[kind] = status
    assert len(set(seen.values())) == len(seen), seen
    drover(node1, "rm", off.name, "--yes")
    guest.assert_runs_only_on(node1)


def test_a_destination_that_is_down_is_named(nodes, guest):
    node1, node2 = nodes
    node2.stop_daemon()
    _, documents = drover(node1, "migrate", guest.name, "node2", check=False)
    node2.start_daemon()
    assert error_of(documents)["kind"] == "unreachable"
    assert "node2" in error_of(documents)["message"]
    guest.assert_runs_only_on(node1)


def test_a_bridge_that_is_not_there_is_named(nodes, guest):
    node1, node2 = nodes
    subprocess.run(["ip", "-n", node2.namespace, "link", "set", "br0", "name", "br9"], check=True)
    try:
        _, documents = drover(node1, "migrate", guest.name, "node2", check=False)
    finally:
        subprocess.run(["ip", "-n", node2.namespace, "link", "set", "br9", "name", "br0"], check=True)
    assert error_of(documents)["kind"] == "network"
    assert "br0" in error_of(documents)["message"] and "node2" in error_of(documents)["message"]
    guest.assert_runs_only_on(node1)


def test_a_disk_that_does_not_open_there_is_named(two, nodes):
    node1, _ = nodes
    it = Guest(two, node1, "lockeddisk", disk="disk0.qcow2,size=16M")
    disk = two.pool / "vms" / it.name / "disk0.qcow2"
    owner = disk.stat()
    os.chown(disk, 0, 0)
    disk.chmod(0o600)
    try:
        _, documents = drover(node1, "migrate", it.name, "node2", check=False)
        assert error_of(documents)["kind"] == "disk"
        assert "disk0.qcow2" in error_of(documents)["message"]
        assert "Permission denied" in error_of(documents)["message"]
        it.assert_runs_only_on(node1)
    finally:
        os.chown(disk, owner.st_uid, owner.st_gid)
        it.remove(node1)


def test_a_restart_of_droverd_does_not_touch_its_vms(nodes, guest):
    node1, _ = nodes
    pid = guest.pids(node1)
    with Watch(guest) as watch:
        for how in (signal.SIGTERM, signal.SIGKILL):
            node1.stop_daemon(how)
            node1.start_daemon()
            guest.assert_runs_only_on(node1)
    assert guest.pids(node1) == pid
    assert watch.result["tcp_survived"], watch.result


def test_a_vm_that_powers_off_can_be_started_on_another_node(nodes, guest):
    node1, node2 = nodes
    status, documents = drover(node2, "start", guest.name, check=False)
    assert status != 0, documents
    drover(node1, "stop", guest.name, "--timeout", "30")
    assert guest.pids(node1) == []
    drover(node2, "start", guest.name)
    guest_client.wait_ready(guest.lab.guests, guest.address, 60)
    assert len(guest.pids(node2)) == 1


def test_a_pool_that_takes_no_claim_leaves_it_running_here(nodes, guest):
    """Nothing can be written to the VM's directory when the destination claims."""
    node1, node2 = nodes
    directory = guest.lab.pool / "vms" / guest.name
    gate = f"{guest.lab.directory}/go"
    restart_with_fault(node2, f"migrate.dst.before_claim:file={gate}")
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: migration_of(node1, guest, "running") and
             migration_of(node1, guest, "running")["step"] == "handover", "the handover", 60)
    subprocess.run(["chattr", "+i", str(directory)], check=True)
    try:
        open(gate, "w", encoding="ascii").close()
        out, _ = move.communicate(timeout=120)
        assert move.returncode != 0, out
        guest.assert_runs_only_on(node1)
    finally:
        subprocess.run(["chattr", "-i", str(directory)], check=True)


def test_ls_on_any_node_shows_every_vm_as_its_node_does(nodes, guest):
    others = [Guest(guest.lab, nodes[0], f"another{i}", fill=False) for i in range(2)]
    try:
        for node in nodes:
            _, (answer,) = drover(node, "ls")
            states = {vm["name"]: (vm["node"], vm["state"]) for vm in answer["vms"]}
            for it in (guest, *others):
                assert states[it.name] == ("node1", "running"), (node.name, states)
    finally:
        for it in others:
            it.remove(nodes[0])


def test_a_client_of_the_api_sees_the_same_truth_on_both_nodes(nodes, guest):
    """While it moves, ls on both nodes names one owner at any time."""
    node1, node2 = nodes
    stop = threading.Event()
    wrong = []

    def look():
        while not stop.is_set():
            owners = []
            for node in nodes:
                _, answer = node.api("GET", f"/v1/vms/{guest.name}")
                owners.append((answer.get("epoch"), answer.get("node")))
            # Two looks are not at the same time: the later one may be ahead, never back.
            if owners[1][0] < owners[0][0]:
                wrong.append(owners)
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        drover(node1, "migrate", guest.name, "node2")
    finally:
        stop.set()
        thread.join()
    assert not wrong
    guest.assert_runs_only_on(node2)
