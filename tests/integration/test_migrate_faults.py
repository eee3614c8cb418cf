"""Moves that fail in the middle: each process of both nodes, at each side of the handover. Each test ends
with the guest's check of its own memory and with its hypervisor on exactly one node."""

import os
import signal
import subprocess

import pytest

from droverlab.paths import LabError
# The fixtures are used by their names.
from moving import (fixture_guest, fixture_nodes, fixture_shared, fixture_two,  # noqa: F401 pylint: disable=unused-import
                    migration_of, move_in_background, restart_with_fault, wait_rounds)
from vms import Watch, assert_nothing_is_left, drover, error_of, guest_client, wait_for, wires


@pytest.mark.parametrize("victim", ["droverd", "hypervisor", "drover-wire", "link"])
def test_a_destination_that_fails_in_the_middle_leaves_it_running_here(nodes, guest, victim):
    node1, node2 = nodes
    with Watch(guest) as watch:
        move = move_in_background(node1, guest.name, "node2", "--bandwidth", "2M", "--reconnect", "5")
        wait_rounds(node1, guest)
        if victim == "droverd":
            node2.stop_daemon(signal.SIGKILL)
        elif victim == "hypervisor":
            os.kill(guest.pids(node2)[0], signal.SIGKILL)
        elif victim == "drover-wire":
            os.kill(wires(node2)[0], signal.SIGKILL)
        else:
            subprocess.run(["ip", "-n", node2.namespace, "link", "set", "mig0", "down"], check=True)
        out, _ = move.communicate(timeout=180)
        if victim == "droverd":
            node2.start_daemon()
        elif victim == "link":
            subprocess.run(["ip", "-n", node2.namespace, "link", "set", "mig0", "up"], check=True)
    assert move.returncode != 0, out
    guest.assert_runs_only_on(node1)
    assert watch.result["tcp_survived"], watch.result
    assert_nothing_is_left(node2)
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)


@pytest.mark.parametrize("number", [0, 1])
def test_a_lane_that_fails_when_it_was_made_again_ends_the_move(nodes, guest, number):
    node1, _ = nodes
    restart_with_fault(nodes[number], "wire.link.reconnected:error")
    move = move_in_background(node1, guest.name, "node2", "--bandwidth", "2M")
    wait_rounds(node1, guest)
    link = ["ip", "-n", node1.namespace, "link", "set", "mig0"]
    subprocess.run([*link, "down"], check=True)
    lanes = ["ss", "-tnH", "state", "established",
             "( dport >= :7800 and dport <= :7899 ) or ( sport >= :7800 and sport <= :7899 )"]
    for node in nodes:  # a silent lane is believed in for a while
        wait_for(lambda node=node: not node.run(*lanes).stdout, f"{node.name}'s giving it up")
    subprocess.run([*link, "up"], check=True)
    out, _ = move.communicate(timeout=90)
    restart_with_fault(nodes[number], "")
    assert move.returncode != 0 and "wire.link.reconnected" in out, out
    guest.assert_runs_only_on(node1)


def test_a_destination_that_is_stopped_in_the_middle_is_no_cancelling(nodes, guest):
    """And the next move, asked once it is back, does not use what is left of the connection."""
    node1, node2 = nodes
    move = move_in_background(node1, guest.name, "node2", "--bandwidth", "2M")
    wait_rounds(node1, guest)
    node2.stop_daemon()
    out, _ = move.communicate(timeout=60)
    assert move.returncode not in (0, 27), out
    assert f"{guest.name} was not moved and runs on node1" in out, out
    node2.start_daemon()
    assert migration_of(node1, guest, "failed")
    guest.assert_runs_only_on(node1)
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)


def test_a_source_droverd_killed_in_the_middle_takes_its_vm_up_again(nodes, guest):
    node1, node2 = nodes
    move = move_in_background(node1, guest.name, "node2", "--bandwidth", "2M")
    wait_rounds(node1, guest)
    node1.stop_daemon(signal.SIGKILL)
    move.communicate(timeout=60)
    assert move.returncode != 0
    node1.start_daemon()
    wait_for(lambda: migration_of(node1, guest, "failed"), "the end of the migration")
    guest.assert_runs_only_on(node1)
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)


def test_a_destination_that_could_not_be_told_that_the_move_is_off_asks(nodes, guest):
    """It has everything and waits for the source's word, as long as it may take."""
    node1, node2 = nodes
    restart_with_fault(node1, "migrate.src.before_handover:kill")
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: node1.daemon_pid is None, "the death of node1's droverd")
    link = ["ip", "-n", node1.namespace, "link", "set", "mig0"]
    subprocess.run([*link, "down"], check=True)
    move.communicate(timeout=60)
    node1.start_daemon()
    wait_for(lambda: migration_of(node1, guest, "failed"), "the end of the migration")
    assert guest.pids(node2)
    subprocess.run([*link, "up"], check=True)
    ended = wait_for(lambda: migration_of(node2, guest, "failed"), "the end at the destination")
    assert "did not hear" in ended["error"]["message"], ended
    guest.assert_runs_only_on(node1)
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)


@pytest.mark.parametrize("fault, runs_on", [
    ("migrate.dst.before_claim", 0), ("migrate.dst.after_claim", 1),
    ("migrate.dst.after_resume", 1)])
def test_a_destination_killed_around_its_claim_leaves_one_copy(nodes, guest, fault, runs_on):
    node1, node2 = nodes
    restart_with_fault(node2, f"{fault}:kill")
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: node2.daemon_pid is None, "the death of node2's droverd", 60)
    node2.start_daemon()
    move.communicate(timeout=120)
    guest.assert_runs_only_on(nodes[runs_on])


def test_a_destination_that_may_have_run_it_never_says_that_its_copy_ended(nodes, guest):
    """It claims and dies with its hypervisor, and the source cannot read the pool when it is back:
    the source's copy must not go on, for nobody knows what the other wrote to the disks."""
    node1, node2 = nodes
    restart_with_fault(node2, "migrate.dst.after_claim:kill")
    restart_with_fault(node1, "migrate.src.before_reclaim:error")
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: node2.daemon_pid is None, "the death of node2's droverd", 60)
    for pid in guest.pids(node2):
        os.kill(pid, signal.SIGKILL)

    def answered():
        return node2.log.read_text().count("/abort by node node1: done")

    for _ in range(2):  # the second has only the journal to answer from
        before = answered()
        node2.start_daemon()
        wait_for(lambda before=before: answered() > before + 1, "the source's questions", 60)
        assert migration_of(node1, guest, "undecided")
        with pytest.raises(LabError):
            guest_client.wait_ready(guest.lab.guests, guest.address, 1)
        node2.stop_daemon()
    node2.start_daemon()
    node1.stop_daemon()
    node1.start_daemon()
    move.communicate(timeout=60)
    wait_for(lambda: guest.pids(node1) == [], "the end of the copy that must not run")
    wait_for(lambda: migration_of(node1, guest, "failed"), "the end of the migration")
    drover(node1, "start", guest.name)
    guest_client.wait_ready(guest.lab.guests, guest.address, 60)


def test_a_vm_that_is_being_handed_back_is_not_lost_with_the_droverd_that_does_it(nodes, guest):
    """The destination claims, cannot let the guest run, and dies before it has given the VM back:
    the source, whose copy is the only whole one, waits for its word; the next droverd tries again."""
    node1, node2 = nodes
    restart_with_fault(node2, "migrate.dst.after_claim:error,migrate.dst.before_hand_back:kill")
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: node2.daemon_pid is None, "the death of node2's droverd", 60)
    wait_for(lambda: migration_of(node1, guest, "undecided"), "a source that waits")
    assert len(guest.pids(node1)) == len(guest.pids(node2)) == 1
    node2.start_daemon(DROVER_FAULT="migrate.dst.after_claim:error")
    out, _ = move.communicate(timeout=60)
    assert move.returncode != 0, out
    guest.assert_runs_only_on(node1)
    assert_nothing_is_left(node2)
    restart_with_fault(node2, "")
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)


def test_a_vm_that_is_being_handed_back_survives_a_stop_of_the_droverd_that_does_it(nodes, guest):
    """The same with a droverd that is stopped in order while the pool takes no claim."""
    node1, node2 = nodes
    restart_with_fault(node2, "migrate.dst.after_claim:error,migrate.dst.before_hand_back:error")
    size = node2.log.stat().st_size
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: "could not be given back" in node2.log.read_text()[size:], "the tries", 60)
    node2.stop_daemon()
    node2.start_daemon()
    move.communicate(timeout=60)
    guest.assert_runs_only_on(node2)
    assert_nothing_is_left(node1)


def test_a_hypervisor_that_dies_while_it_is_let_run_is_said_and_not_run_elsewhere(nodes, guest):
    """The guest may have run there: the source's copy is an old one. The VM is off, and is said to
    be."""
    node1, node2 = nodes
    restart_with_fault(node2, "migrate.dst.after_resume:kill")
    move = move_in_background(node1, guest.name, "node2")
    wait_for(lambda: node2.daemon_pid is None, "the death of node2's droverd", 60)
    for pid in guest.pids(node2):
        os.kill(pid, signal.SIGKILL)
    node2.start_daemon()
    out, _ = move.communicate(timeout=60)
    assert move.returncode != 0, out
    assert f"drover start {guest.name}" in out, out
    assert not guest.pids(node1)
    drover(node1, "start", guest.name)
    guest_client.wait_ready(guest.lab.guests, guest.address, 60)


@pytest.mark.parametrize("fault, runs_on", [
    ("migrate.src.before_stream", 0), ("migrate.src.before_handover", 0),
    ("migrate.src.before_end", 1)])
def test_a_source_killed_at_a_step_leaves_one_copy(nodes, guest, fault, runs_on):
    node1, node2 = nodes
    restart_with_fault(node1, f"{fault}:kill")
    move = move_in_background(node1, guest.name, "node2")
    move.communicate(timeout=120)
    wait_for(lambda: node1.daemon_pid is None, "the death of node1's droverd")
    node1.start_daemon()
    guest.assert_runs_only_on(nodes[runs_on])
    assert_nothing_is_left(nodes[1 - runs_on])


@pytest.mark.parametrize("fault, runs_on", [
    ("migrate.dst.before_start", 0), ("migrate.dst.before_ready", 0),
    ("migrate.dst.before_claim", 0), ("pool.claim.before_link", 0),
    ("migrate.dst.after_claim", 0)])
def test_an_error_of_the_destination_is_told_and_the_vm_goes_on_here(nodes, guest, fault, runs_on):
    node1, node2 = nodes
    restart_with_fault(node2, f"{fault}:error")
    with Watch(guest) as watch:
        _, documents = drover(node1, "migrate", guest.name, "node2", check=False)
    node2.stop_daemon()
    node2.start_daemon()
    assert fault in error_of(documents)["message"], documents
    guest.assert_runs_only_on(nodes[runs_on])
    assert watch.result["tcp_survived"], watch.result
