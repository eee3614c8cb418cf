"""Post-copy moves of real guests between two nodes, and what happens when they fail.

The guests change their memory faster than the lane carries it, so that pre-copy alone would never end.
Each test ends with the guest's check of its own memory, with its hypervisor on exactly one node.
"""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from droverlab.lab import VM_USER
from moving import migration_of, move_in_background, restart_with_fault, wait_rounds
from vms import (Guest, SharedGuest, Watch, assert_nothing_is_left, drover, error_of, postcopy_lab,
                 wait_for, wires)

# What the guest fills, what it changes of that in a second, and what the lane may carry. The whole set
# is changed again while it is sent: no round comes to an end with less to do, and after the switch all
# of it is on its way for two seconds.
FILL_MIB = 48
DIRTY_MB_S = 36
LANE = "24M"
# For a test that does something while pages are on their way.
SLOW_LANE = "12M"
GAP_MAX_MS = 5000
CUT_S = 20


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return postcopy_lab(make_lab)


@pytest.fixture
def nodes(two):
    """node1 and node2, both with a droverd and no fault."""
    for node in two.nodes:
        if node.daemon_pid is None:
            node.start_daemon()
    yield two.nodes
    for node in two.nodes:
        if faulty(node):
            node.stop_daemon()


def faulty(node):
    pid = node.daemon_pid
    return pid and b"DROVER_FAULT=" in open(f"/proc/{pid}/environ", "rb").read()


@pytest.fixture(scope="module")
def shared(two):
    return SharedGuest(two, "pc", fill=FILL_MIB, postcopy=True)


@pytest.fixture
def guest(shared, nodes):  # pylint: disable=unused-argument
    yield shared.take()
    shared.rest()


@pytest.fixture
def busy(guest):
    """A guest that pre-copy would not get away."""
    guest.ask("dirty", DIRTY_MB_S, "page")
    return guest


def move(node, guest, *options, lane=LANE):
    return move_in_background(node, guest.name, "node2", "--bandwidth", lane, *options)


def wait_postcopy(nodes, guest):
    """Waits until the guest runs on the other side, and pages of it are still on their way."""
    for node in nodes:
        found = wait_for(lambda node=node: (m := migration_of(node, guest, "running")) and
                         m["step"] == "post-copy" and m, "the post-copy", 60)
    return found


def stop_hard(node, guest):
    """A copy that lacks pages: where it hung for one, its droverd has ended it already."""
    status, documents = drover(node, "stop", guest.name, "--hard", check=False)
    assert status == 0 or error_of(documents)["kind"] == "not-running", documents
    wait_for(lambda: not guest.pids(node), "the end of the copy that lacks pages")


def result_of(process, timeout=120):
    """Its exit status and what it printed."""
    out, said = process.communicate(timeout=timeout)
    return process.returncode, out + said


@pytest.mark.parametrize("how", [["--postcopy"], ["postcopy=1"], ["--postcopy=auto"]])
def test_moves_a_guest_that_would_not_converge(nodes, busy, how):
    node1, node2 = nodes
    with Watch(busy) as watch:
        _, documents = drover(node1, "migrate", busy.name, "node2", "--bandwidth", LANE, *how)
    busy.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result
    assert watch.result["longest_gap_ms"] < GAP_MAX_MS, watch.result
    report = documents[-1]["result"]["report"]
    assert report["postcopy_ms"] > 0 and report["downtime_ms"] > 0, report
    assert "post-copy" in [d.get("phase") for d in documents], documents
    assert_nothing_is_left(node1)
    assert_nothing_is_left(node2, busy.pids(node2))


def test_moves_there_and_back(nodes, busy):
    node1, node2 = nodes
    with Watch(busy) as watch:
        drover(node1, "migrate", busy.name, "node2", "--bandwidth", LANE, "--postcopy")
        drover(node2, "migrate", busy.name, "node1", "--bandwidth", LANE, "--postcopy")
    busy.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result


def test_a_guest_that_converges_needs_no_postcopy(nodes, guest):
    node1, node2 = nodes
    with Watch(guest) as watch:
        _, documents = drover(node1, "migrate", guest.name, "node2", "--postcopy=auto")
    guest.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result
    assert documents[-1]["result"]["report"]["postcopy_ms"] == 0, documents[-1]
    assert_nothing_is_left(node1)


def test_a_guest_with_a_disk_moves_too(two, nodes):
    node1, node2 = nodes
    it = Guest(two, node1, "pcdisk", disk="disk0.qcow2,size=64M", fill=FILL_MIB)
    it.ask("disk", "/dev/vda", 50)
    it.ask("dirty", DIRTY_MB_S, "page")
    try:
        drover(node1, "migrate", it.name, "node2", "--bandwidth", LANE, "--postcopy")
        it.assert_runs_only_on(node2)
        before = it.ask("status")["disk_records"]
        wait_for(lambda: it.ask("status")["disk_records"] > before + 10, "more records")
        assert it.ask("status")["disk_errno"] == 0
    finally:
        it.remove(node2)


def test_a_node_that_forbids_userfaultfd_is_named_before_anything_moves(nodes, busy):
    node1, node2 = nodes
    node2.run("chmod", "0600", "/dev/userfaultfd")
    try:
        status, documents = drover(node1, "migrate", busy.name, "node2", "--postcopy", check=False)
    finally:
        node2.run("chmod", "0660", "/dev/userfaultfd")
    assert error_of(documents)["kind"] == "hypervisor" and status == error_of(documents)["exit"]
    for word in ("userfaultfd", "node2", str(VM_USER)):
        assert word in error_of(documents)["message"], documents
    busy.assert_runs_only_on(node1)
    assert_nothing_is_left(node2)


def test_a_guest_that_waits_for_a_page_is_asked_for_in_vain_and_goes_on(nodes, busy):
    """Its QEMU answers nothing meanwhile, and reads nothing once many have asked: that must not keep
    it from being told of the new lane."""
    node1, node2 = nodes
    moving = move(node1, busy, "--postcopy", "--reconnect", "3")
    wait_for(lambda: (m := migration_of(node2, busy, "running")) and m["step"] == "post-copy",
             "the post-copy", 60)
    link = ["ip", "-n", node2.namespace, "link", "set", "mig0"]
    size = node2.log.stat().st_size
    subprocess.run([*link, "down"], check=True)
    try:
        asking = [threading.Thread(target=node2.api, args=("GET", f"/v1/vms/{busy.name}"))
                  for _ in range(20)]
        wait_for(lambda: f"post-copy of {busy.name} from node1 is interrupted"
                 in node2.log.read_text()[size:], "the interruption", 60)
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    finally:
        subprocess.run([*link, "up"], check=True)
    wait_for(lambda: migration_of(node1, busy, "done"), "the end of the migration", 120)
    result_of(moving)
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


def test_pausing_first_and_postcopy_exclude_each_other(nodes, guest):
    _, documents = drover(nodes[0], "migrate", guest.name, "node2", "--pause", "--postcopy",
                          check=False)
    assert error_of(documents)["kind"] == "usage", documents


def test_a_cancel_before_the_switch_leaves_it_running_where_it_was(nodes, busy):
    node1, node2 = nodes
    with Watch(busy) as watch:
        moving = move(node1, busy, "--postcopy=1000")
        found = wait_rounds(node1, busy)
        status, documents = drover(node2, "migration", "cancel", found["id"], check=False)
        assert error_of(documents)["kind"] == "refused" and "node1" in error_of(documents)["message"]
        drover(node1, "migration", "cancel", found["id"])
        status, said = result_of(moving)
    assert status == 27, said
    busy.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(node2)


def test_a_cancel_after_the_switch_is_refused(nodes, busy):
    node1, node2 = nodes
    gate = Path(f"{busy.lab.directory}/refused")
    restart_with_fault(node1, f"migrate.src.during_postcopy:file={gate}")
    restart_with_fault(node2, f"migrate.dst.during_postcopy:file={gate}")
    moving = move(node1, busy, "--postcopy")
    found = wait_postcopy(nodes, busy)
    for node in nodes:
        _, documents = drover(node, "migration", "cancel", found["id"], check=False)
        assert error_of(documents)["kind"] == "refused", documents
        assert "post-copy" in error_of(documents)["message"], documents
    for verb in (["stop"], ["rm", "--yes"], ["migrate", busy.name, "node1"]):
        words = verb if busy.name in verb else [verb[0], busy.name, *verb[1:]]
        _, documents = drover(node2, *words, check=False)
        assert error_of(documents)["kind"] in ("busy", "running"), (verb, documents)
    gate.touch()
    status, said = result_of(moving)
    assert status == 0, said
    busy.assert_runs_only_on(node2)


@pytest.mark.parametrize("number, how", [(0, signal.SIGKILL), (1, signal.SIGKILL),
                                         (0, signal.SIGTERM), (1, signal.SIGTERM)])
def test_a_droverd_that_ends_in_postcopy_picks_it_up_again(nodes, busy, number, how):
    node1, node2 = nodes
    gate = Path(f"{busy.lab.directory}/goes-on{number}{how}")
    if number == 1:  # or node1 might end its copy meanwhile, which is needed no more
        restart_with_fault(node1, f"migrate.src.during_postcopy:file={gate}")
    with Watch(busy) as watch:
        moving = move(node1, busy, "--postcopy", lane=SLOW_LANE)
        wait_postcopy(nodes, busy)
        nodes[number].stop_daemon(how)
        assert len(busy.pids(node1)) == 1 and len(busy.pids(node2)) == 1
        gate.touch()
        nodes[number].start_daemon()
        wait_for(lambda: migration_of(node1, busy, "done") and migration_of(node2, busy, "done"),
                 "the end of the migration", 60)
        result_of(moving)
    busy.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(node1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_droverd_that_is_away_until_all_pages_are_there_learns_of_it(nodes, busy, number):
    node1, node2 = nodes
    moving = move(node1, busy, "--postcopy")
    wait_postcopy(nodes, busy)
    nodes[number].stop_daemon(signal.SIGKILL)
    wait_for(lambda: not wires(node1) and not wires(node2), "the end of the post-copy", 60)
    nodes[number].start_daemon()
    wait_for(lambda: migration_of(node1, busy, "done") and migration_of(node2, busy, "done"),
             "the end of the migration", 60)
    result_of(moving)
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


def ended(node, guest):
    """The newest migration of a guest, when it has ended."""
    return migration_of(node, guest, "done") or migration_of(node, guest, "failed")


@pytest.mark.parametrize("fault, number, states", [
    ("migrate.src.before_switch", 0, "failed"),
    # Whether its hypervisor has followed the order by then decides.
    ("migrate.src.after_switch", 0, "failed done"),
    ("migrate.src.before_handover", 0, "done"), ("migrate.dst.before_claim", 1, "done"),
    ("migrate.dst.after_claim", 1, "done"), ("migrate.dst.after_resume", 1, "done"),
    ("migrate.src.before_end", 0, "done")])
def test_a_droverd_killed_at_a_step_leaves_one_copy(nodes, busy, fault, number, states):
    node1, _ = nodes
    victim = nodes[number]
    restart_with_fault(victim, f"{fault}:kill")
    with Watch(busy) as watch:
        moving = move(node1, busy, "--postcopy")
        wait_for(lambda: victim.daemon_pid is None, "the death of droverd", 60)
        victim.start_daemon()
        result_of(moving)
        state = wait_for(lambda: ended(node1, busy), "the end of the migration", 60)["state"]
    assert state in states.split()
    runs_on = 1 if state == "done" else 0
    busy.assert_runs_only_on(nodes[runs_on])
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(nodes[1 - runs_on])


@pytest.mark.parametrize("point", ["before_incoming", "before_loaded"])
def test_a_destination_whose_source_gave_up_while_it_was_away_ends_its_copy(nodes, busy, point):
    """The source tells nobody; the copy might be the VM, had it been switched."""
    node1, node2 = nodes
    gate = f"{busy.lab.directory}/{point}-away"
    restart_with_fault(node2, f"migrate.dst.{point}:file={gate}")
    moving = move(node1, busy, "--postcopy=1000", "--reconnect", "2")
    wait_for(Path(f"{gate}.reached").exists, "the point", 60)
    if point == "before_loaded":
        wait_rounds(node1, busy)
    node2.stop_daemon(signal.SIGKILL)
    if point == "before_loaded":
        os.kill(wires(node1)[0], signal.SIGKILL)
    status, said = result_of(moving)
    assert status != 0, said
    node2.start_daemon()
    wait_for(lambda: migration_of(node2, busy, "failed"), "the end of the migration", 60)
    busy.assert_runs_only_on(node1)
    assert_nothing_is_left(node2)


@pytest.mark.parametrize("point", ["before_incoming", "before_ready"])
def test_a_destination_that_was_never_ready_ends_when_its_droverd_is_back(nodes, busy, point):
    """Nobody can have switched to it: the source is told, and does not wait for it."""
    node1, node2 = nodes
    gate = Path(f"{busy.lab.directory}/{point}")
    restart_with_fault(node1, f"migrate.src.before_lane:file={gate}")
    restart_with_fault(node2, f"migrate.dst.{point}:kill")
    moving = move(node1, busy, "--postcopy")
    wait_for(lambda: Path(f"{gate}.reached").exists() and node2.daemon_pid is None,
             "the death of droverd", 60)
    node2.start_daemon()
    wait_for(lambda: migration_of(node2, busy, "failed"), "the end of the migration", 60)
    gate.touch()
    status, said = result_of(moving)
    assert status != 0 and "droverd on node2 was restarted" in said, said
    busy.assert_runs_only_on(node1)
    assert_nothing_is_left(node2)


def test_a_destination_that_was_ready_is_so_when_its_droverd_is_back(nodes, busy):
    """The source may have been told so already, and goes on with it in any case."""
    node1, node2 = nodes
    gate = Path(f"{busy.lab.directory}/lane")
    restart_with_fault(node1, f"migrate.src.before_lane:file={gate}")
    restart_with_fault(node2, "migrate.dst.before_loaded:kill")
    moving = move(node1, busy, "--postcopy")
    wait_for(lambda: Path(f"{gate}.reached").exists() and node2.daemon_pid is None,
             "the death of droverd", 60)
    node2.start_daemon()
    gate.touch()
    status, said = result_of(moving)
    assert status == 0, said
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


def test_a_source_that_does_not_come_back_does_not_hold_the_guest_up(nodes, busy):
    """The word that the destination waits for does not come: it claims without, after a while."""
    node1, node2 = nodes
    restart_with_fault(node1, "migrate.src.before_handover:kill")
    moving = move(node1, busy, "--postcopy")
    wait_for(lambda: node1.daemon_pid is None, "the death of droverd", 60)
    wait_for(lambda: migration_of(node2, busy, "done"), "the end of the migration", 60)
    result_of(moving)
    node1.start_daemon()
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


@pytest.mark.parametrize("number, fault, step", [
    (0, "migrate.src.before_switch", "switch"), (1, "migrate.dst.before_claim", "claim"),
    (1, "migrate.dst.after_claim", "claim")])
def test_a_destination_hypervisor_that_dies_around_the_switch_leaves_it_running_here(
        nodes, busy, number, fault, step):
    """Just before the order, and when all is ready to run there: the source's copy is still whole."""
    node1, node2 = nodes
    gate = f"{busy.lab.directory}/{fault}"
    restart_with_fault(nodes[number], f"{fault}:file={gate}")
    with Watch(busy) as watch:
        moving = move(node1, busy, "--postcopy")
        wait_for(lambda: (m := migration_of(nodes[number], busy, "running")) and m["step"] == step,
                 step, 60)
        os.kill(busy.pids(node2)[0], signal.SIGKILL)
        open(gate, "w", encoding="ascii").close()
        status, said = result_of(moving)
    assert status != 0 and "runs on node1" in said, said
    busy.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(node2)


def test_a_pool_that_takes_no_claim_is_waited_for(nodes, busy):
    """Past the switch nobody else could run it: the destination tries again until the pool lets it."""
    node1, node2 = nodes
    directory = busy.lab.pool / "vms" / busy.name
    gate = f"{busy.lab.directory}/go"
    restart_with_fault(node2, f"migrate.dst.before_claim:file={gate}")
    with Watch(busy) as watch:
        moving = move(node1, busy, "--postcopy")
        wait_for(lambda: (m := migration_of(node2, busy, "running")) and m["step"] == "claim",
                 "the claim", 60)
        subprocess.run(["chattr", "+i", str(directory)], check=True)
        try:
            open(gate, "w", encoding="ascii").close()
            wait_for(lambda: "cannot be claimed and stays paused" in node2.log_tail(50), "a claim that fails")
        finally:
            subprocess.run(["chattr", "-i", str(directory)], check=True)
        status, said = result_of(moving)
    assert status == 0, said
    busy.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result


@pytest.mark.parametrize("number", [0, 1])
def test_a_data_mover_that_dies_in_postcopy_is_replaced(nodes, busy, number):
    node1, node2 = nodes
    with Watch(busy) as watch:
        moving = move(node1, busy, "--postcopy", lane=SLOW_LANE)
        wait_postcopy(nodes, busy)
        os.kill(wires(nodes[number])[0], signal.SIGKILL)
        status, said = result_of(moving)
    assert status == 0, said
    assert "interrupted" in said, said
    busy.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(node1)


def test_a_data_mover_that_dies_before_the_guest_runs_is_replaced(nodes, busy):
    """The destination's hypervisor may hang then, for a page that it needs to let the guest run."""
    node1, node2 = nodes
    gate = Path(f"{busy.lab.directory}/after-claim")
    restart_with_fault(node2, f"migrate.dst.after_claim:file={gate}")
    moving = move(node1, busy, "--postcopy")
    wait_for(Path(f"{gate}.reached").exists, "the claim", 60)
    os.kill(wires(node2)[0], signal.SIGKILL)
    wait_for(lambda: not wires(node1), "the end of the other data mover", 60)
    gate.touch()
    status, said = result_of(moving)
    assert status == 0, said
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


def state_after_restart(node, guest):
    node.stop_daemon(signal.SIGKILL)
    node.start_daemon()
    _, (info,) = drover(node, "show", guest.name)
    return info["state"]


def finds_it_hanging(nodes, busy, number):
    """A move whose destination's droverd is killed when the lane has broken: whether its next one
    found a hypervisor that hangs. It does nearly always: a guest that is talked to has changed the
    pages into which its hypervisor has to put what comes, but they may have arrived before."""
    node1, node2 = nodes
    claimed, renewed = (Path(busy.lab.directory) / f"{what}-{number}" for what in ("claim", "renew"))
    restart_with_fault(node1, f"migrate.src.before_renew:file={renewed}")
    restart_with_fault(node2, f"migrate.dst.after_claim:file={claimed}")
    with Watch(busy):
        moving = move(node1, busy, "--postcopy")
        wait_for(Path(f"{claimed}.reached").exists, "the claim", 60)
        os.kill(wires(node2)[0], signal.SIGKILL)
        claimed.touch()
        wait_for(Path(f"{renewed}.reached").exists, "a source that wants another lane", 60)
        deadline = time.monotonic() + 30
        while not (hangs := state_after_restart(node2, busy) == "silent"):
            if time.monotonic() > deadline:
                break
        renewed.touch()
        status, said = result_of(moving)
    assert status == 0, said
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)
    return hangs


def test_a_droverd_that_finds_a_hypervisor_hanging_for_a_page_makes_the_lane_for_it(nodes, busy):
    """That hypervisor agrees to no new connection; it is told of the lane on one that it has."""
    for number in range(3):
        if finds_it_hanging(nodes, busy, number):
            return
        drover(nodes[1], "migrate", busy.name, nodes[0].name, "--postcopy")
    pytest.fail("no hypervisor hung for a page")


def test_a_source_hypervisor_that_dies_while_the_other_waits_for_its_pages_ends_both(nodes, busy):
    """Neither droverd waits for the other's word then: what was in memory is lost, and the VM can be
    started."""
    node1, node2 = nodes
    gate = Path(busy.lab.directory) / "claimed-too"
    restart_with_fault(node2, f"migrate.dst.after_claim:file={gate}")
    with Watch(busy):
        moving = move(node1, busy, "--postcopy")
        wait_for(Path(f"{gate}.reached").exists, "the claim", 60)
        os.kill(busy.pids(node1)[0], signal.SIGKILL)
    gate.touch()
    status, said = result_of(moving)
    assert status != 0 and "without some pages" in said, said
    for node in nodes:
        wait_for(lambda node=node: migration_of(node, busy, "failed"), f"the end on {node.name}", 60)
        assert_nothing_is_left(node1)
    stop_hard(node2, busy)
    drover(node1, "start", busy.name)
    wait_for(lambda: len(busy.pids(node1)) == 1, "a new start")


@pytest.mark.parametrize("number, fault", [(0, "migrate.src.before_renew"),
                                           (1, "migrate.dst.before_renew")])
def test_a_droverd_that_dies_while_it_makes_a_new_lane_makes_it_when_it_is_back(
        nodes, busy, number, fault):
    node1, node2 = nodes
    restart_with_fault(nodes[number], f"{fault}:kill")
    moving = move(node1, busy, "--postcopy", lane=SLOW_LANE)
    wait_postcopy(nodes, busy)
    os.kill(wires(node1)[0], signal.SIGKILL)
    wait_for(lambda: nodes[number].daemon_pid is None, "the death of droverd", 60)
    nodes[number].start_daemon()
    result_of(moving)
    wait_for(lambda: migration_of(node1, busy, "done"), "the end of the migration", 60)
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


def test_a_source_hypervisor_that_dies_in_postcopy_is_told_as_what_it_is(nodes, busy):
    node1, node2 = nodes
    moving = move(node1, busy, "--postcopy", lane=SLOW_LANE)
    wait_postcopy(nodes, busy)
    os.kill(busy.pids(node1)[0], signal.SIGKILL)
    status, said = result_of(moving)
    assert status != 0
    assert "without some pages" in said and "start it again" in said, said
    wait_for(lambda: migration_of(node2, busy, "failed"), "the end of the migration", 60)
    assert_nothing_is_left(node1)
    stop_hard(node2, busy)
    drover(node1, "start", busy.name)
    wait_for(lambda: len(busy.pids(node1)) == 1, "a new start")


def test_a_destination_hypervisor_that_dies_in_postcopy_is_told_as_what_it_is(nodes, busy):
    node1, node2 = nodes
    moving = move(node1, busy, "--postcopy", lane=SLOW_LANE)
    wait_postcopy(nodes, busy)
    os.kill(busy.pids(node2)[0], signal.SIGKILL)
    status, said = result_of(moving)
    assert status != 0 and "start it again" in said, said
    for node in nodes:
        wait_for(lambda node=node: not busy.pids(node), "the end of both copies")
    drover(node1, "start", busy.name)
    wait_for(lambda: len(busy.pids(node1)) == 1, "a new start")


def test_a_destination_that_dies_with_all_it_knows_leaves_nothing_undecided(nodes, busy):
    """Its hypervisor has run the guest, and its droverd had not said so yet: only the pool tells."""
    node1, node2 = nodes
    restart_with_fault(node2, "migrate.dst.after_resume:kill")
    moving = move(node1, busy, "--postcopy")
    wait_for(lambda: node2.daemon_pid is None, "the death of droverd", 60)
    os.kill(busy.pids(node2)[0], signal.SIGKILL)
    node2.start_daemon()
    status, said = result_of(moving)
    assert status != 0 and f"drover start {busy.name}" in said, said
    for node in nodes:
        wait_for(lambda node=node: not busy.pids(node), "the end of both copies")
    assert_nothing_is_left(node1)
    drover(node1, "start", busy.name)
    wait_for(lambda: len(busy.pids(node1)) == 1, "a new start")


def test_a_destination_that_is_away_is_told_that_pages_are_lost_when_it_is_back(nodes, busy):
    """It would wait for them for ever."""
    node1, node2 = nodes
    moving = move(node1, busy, "--postcopy", lane=SLOW_LANE)
    wait_postcopy(nodes, busy)
    node2.stop_daemon(signal.SIGKILL)
    os.kill(busy.pids(node1)[0], signal.SIGKILL)
    wait_for(lambda: not busy.pids(node1), "the end of the source's hypervisor")
    node2.start_daemon()
    wait_for(lambda: migration_of(node2, busy, "failed"), "the end of the migration", 60)
    status, said = result_of(moving)
    assert status != 0 and "without some pages" in said, said
    stop_hard(node2, busy)
    assert_nothing_is_left(node1)


@pytest.mark.parametrize("how, phase", [([], "stream"), (["--postcopy"], "post-copy")])
def test_a_network_that_is_cut_for_a_while_ends_nothing(nodes, busy, how, phase):
    """No poll, no word and no lane is given up for a cut of 20 s."""
    node1, node2 = nodes
    if not how:
        busy.ask("stop")
    moving = move(node1, busy, *how)
    wait_for(lambda: (m := migration_of(node1, busy, "running")) and m["step"] == phase, phase, 60)
    subprocess.run(["ip", "-n", node2.namespace, "link", "set", "mig0", "down"], check=True)
    try:
        time.sleep(CUT_S)
    finally:
        subprocess.run(["ip", "-n", node2.namespace, "link", "set", "mig0", "up"], check=True)
    status, said = result_of(moving, 180)
    assert status == 0, said
    busy.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)
