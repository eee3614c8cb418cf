"""Hypervisors that hang: they live and answer nothing, when droverd finds them again or asks them.

SIGSTOP makes one hang for as long as a test wants. In life it is a disk that does not answer, or a
page that a broken post-copy never brings.
"""

import contextlib
import os
import signal

import pytest

from moving import migration_of, move_in_background
from test_postcopy import DIRTY_MB_S, LANE, SLOW_LANE, result_of, wait_postcopy
from vms import Guest, assert_nothing_is_left, drover, error_of, postcopy_lab, wait_for


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return postcopy_lab(make_lab)


@pytest.fixture
def guest(two, request):
    it = Guest(two, two.nodes[0], f"hang-{abs(hash(request.node.name)) % 10**8}")
    yield it
    for node in two.nodes:
        if node.daemon_pid is None:
            node.start_daemon()
        for pid in it.pids(node):
            wake(pid)
            drover(node, "stop", it.name, "--hard", check=False)
    drover(two.nodes[0], "rm", it.name, "--yes", check=False)


def wake(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def state_of(node, guest):
    _, (info,) = drover(node, "show", guest.name)
    return info["state"]


def restart_while_it_hangs(node, guest):
    """droverd dies, its hypervisor hangs, and another droverd finds it so."""
    node.stop_daemon(signal.SIGKILL)
    pid, = guest.pids(node)
    os.kill(pid, signal.SIGSTOP)
    node.start_daemon()
    return pid


def test_one_that_hangs_is_silent_until_it_answers(two, guest):
    node1, _ = two.nodes
    pid = restart_while_it_hangs(node1, guest)
    assert state_of(node1, guest) == "silent"
    _, documents = drover(node1, "start", guest.name, check=False)
    assert error_of(documents)["kind"] == "running", documents
    wake(pid)
    wait_for(lambda: state_of(node1, guest) == "running", "an answer")
    assert guest.pids(node1) == [pid]
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(two.nodes[1])


def test_one_that_hangs_can_be_stopped(two, guest):
    node1, node2 = two.nodes
    restart_while_it_hangs(node1, guest)
    drover(node1, "stop", guest.name, "--hard")
    assert guest.pids(node1) == []
    assert_nothing_is_left(node1)
    drover(node2, "start", guest.name)
    wait_for(lambda: len(guest.pids(node2)) == 1, "a new start")


def test_one_that_a_recovery_waits_for_can_be_stopped(two, guest):
    """The migration is undone, for which its source has to answer."""
    node1, node2 = two.nodes
    guest.ask("dirty", DIRTY_MB_S, "page")
    moving = move_in_background(node1, guest.name, "node2", "--bandwidth", LANE)
    wait_for(lambda: (m := migration_of(node1, guest, "running")) and m["step"] == "stream",
             "the stream")
    restart_while_it_hangs(node1, guest)
    moving.communicate(timeout=60)
    _, documents = drover(node1, "stop", guest.name, "--timeout", "5", check=False)
    assert error_of(documents)["kind"] == "busy", documents
    drover(node1, "stop", guest.name, "--hard")
    wait_for(lambda: migration_of(node1, guest, "failed"), "the end of the migration")
    for node in (node1, node2):
        wait_for(lambda node=node: guest.pids(node) == [], f"no copy on {node.name}")
        assert_nothing_is_left(node)
    drover(node2, "start", guest.name)


def interrupted_postcopy(two, guest, *options):
    """A post-copy whose destination hangs, and is found so by another droverd; whose source is to
    go on serving pages."""
    node1, node2 = two.nodes
    guest.ask("dirty", DIRTY_MB_S, "page")
    moving = move_in_background(node1, guest.name, "node2", "--bandwidth", SLOW_LANE,
                                "--postcopy", *options)
    found = wait_postcopy(two.nodes, guest)
    restart_while_it_hangs(node2, guest)
    return moving, found["id"]


def assert_given_up(two, guest):
    """Its memory is lost; it is nobody's, and can be started."""
    node1, node2 = two.nodes
    ended = wait_for(lambda: migration_of(node2, guest, "failed"), "the end of the migration")
    assert "without some pages" in ended["error"]["message"], ended
    assert guest.pids(node2) == []
    assert_nothing_is_left(node2)
    assert f"drover start {guest.name}" in ended["error"]["message"], ended
    wait_for(lambda: migration_of(node1, guest, "failed"), "the end of the other side", 120)
    assert guest.pids(node1) == []
    drover(node1, "start", guest.name)


def test_a_postcopy_that_hangs_ends_when_its_source_has_failed(two, guest):
    # For as long as a lane is made again the source tries to tell the other side that it is over.
    moving, _ = interrupted_postcopy(two, guest, "--reconnect", "3")
    os.kill(guest.pids(two.nodes[0])[0], signal.SIGKILL)
    status, said = result_of(moving)
    assert status != 0 and "without some pages" in said, said
    assert_given_up(two, guest)


def test_a_postcopy_that_hangs_can_be_given_up(two, guest):
    node1, node2 = two.nodes
    moving, number = interrupted_postcopy(two, guest)
    wait_for(lambda: drover(node2, "migration", "cancel", number, check=False)[0] == 0,
             "a cancel that is taken")
    assert_given_up(two, guest)
    status, said = result_of(moving)
    assert status != 0 and "start it again" in said, said


def test_a_postcopy_that_hangs_for_a_while_goes_on(two, guest):
    node1, node2 = two.nodes
    moving, _ = interrupted_postcopy(two, guest)
    wake(guest.pids(node2)[0])
    status, said = result_of(moving)
    assert status == 0, said
    guest.ask("dirty", 0, "page")
    guest.assert_runs_only_on(node2)
