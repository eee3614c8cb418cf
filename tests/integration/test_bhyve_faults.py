"""Every cell of bhyvelab.cells(), with what a source's bhyve makes of a connection that ends set to both
things that it can be: `make check-bhyve`."""

import contextlib

import pytest

import bhyvelab
from droverlab import guest_client
from droverlab.paths import LabError
from vms import FILL_MIB, drover, wait_for


@pytest.fixture(scope="module", params=["exit", "resume"])
def two(make_lab, tiny_guest, request):  # pylint: disable=unused-argument
    return bhyvelab.bhyve_lab(make_lab, request.param, BHYVE_SHIM_EOF=request.param)


@pytest.fixture(scope="module")
def guest(two):
    it = bhyvelab.BhyveGuest(two, two.nodes[0], "beastie")
    it.environment = {"BHYVE_SHIM_EOF": "exit" if two.directory.name.endswith("exit") else "resume"}
    return it


@pytest.mark.parametrize("cell", bhyvelab.cells(), ids=str)
def test_a_fault_leaves_one_whole_copy(two, guest, cell):
    bhyvelab.run_cell(two, guest, cell)


@pytest.mark.parametrize("cell", [c for c in bhyvelab.cells() if c.victim == "droverd"], ids=str)
def test_a_droverd_that_comes_back_late_leaves_one_whole_copy(two, guest, cell):
    bhyvelab.run_cell(two, guest, cell, late=True)


def sides(two, guest):
    here = bhyvelab.running(two, guest)[0]
    return here, next(node for node in two.nodes if node.name != here.name)


def kill_unrun(two, guest, there, late=False, then=lambda: None):
    """droverd of the destination has claimed, and dies; its bhyve, which has not run, too."""
    def act():
        bhyvelab.kill(there, guest, "droverd")
        bhyvelab.kill(there, guest, "hypervisor")
        then()
    bhyvelab.hold_and(two, guest, there, "migrate.dst.after_claim", act, late)
    bhyvelab.assert_never_twice(two)


def start(two, guest, node):
    """It is nobody's, and starts where it is asked to."""
    wait_for(lambda: drover(node, "start", guest.name, check=False)[0] == 0, "a start there")
    guest_client.wait_ready(two.guests, guest.address, 60)
    guest.ask("fill", FILL_MIB, "text")
    guest.assert_runs_only_on(node)
    bhyvelab.assert_never_twice(two)


def test_a_droverd_that_dies_again_while_it_gives_the_guest_back_does_so_in_the_end(two, guest):
    here, there = sides(two, guest)

    def die_again():
        with contextlib.suppress(LabError):  # it may be dead before it has answered
            bhyvelab.start_daemon(there, DROVER_FAULT="pool.claim.before_link:kill",
                                  **guest.environment)
        wait_for(lambda: there.daemon_pid is None, "its end at the claim")
    kill_unrun(two, guest, there, then=die_again)
    guest.assert_runs_only_on(here)
    guest.assert_memory_is_right()


def test_a_droverd_that_is_back_when_the_source_has_given_up_leaves_the_guest_to_be_started(two, guest):
    _, there = sides(two, guest)
    kill_unrun(two, guest, there, late=True)
    wait_for(lambda: not bhyvelab.running(two, guest), "the end of the source's copy")
    start(two, guest, there)


def test_a_droverd_that_is_back_while_the_source_ends_its_copy_leaves_the_guest_to_be_started(
        two, guest):
    here, there = sides(two, guest)
    there.stop_daemon()
    bhyvelab.start_daemon(there, DROVER_FAULT="migrate.dst.after_claim:kill", **guest.environment)

    def come_back():
        bhyvelab.kill(there, guest, "hypervisor")
        bhyvelab.start_daemon(there, **guest.environment)
        wait_for(lambda: bhyvelab.ended(there, guest), "its word on the VM")
    bhyvelab.hold_and(two, guest, here, "migrate.src.before_end", come_back)
    assert not bhyvelab.running(two, guest)
    start(two, guest, there)


def test_a_copy_that_ended_before_its_definition_was_kept_is_cleaned_up(two, guest):
    here, there = sides(two, guest)

    def end_both():
        bhyvelab.kill(there, guest, "droverd")
        bhyvelab.kill(there, guest, "hypervisor")
        there.path(f"/run/drover/vms/{guest.name}/vm.conf").unlink()
    bhyvelab.hold_and(two, guest, there, "migrate.dst.before_incoming", end_both)
    guest.assert_runs_only_on(here)
    drover(here, "migrate", guest.name, there.name)
    guest.assert_runs_only_on(there)


def test_a_bhyve_that_does_not_like_the_other_host_leaves_the_guest_where_it_was(two, guest):
    here, there = sides(two, guest)
    there.stop_daemon()
    bhyvelab.start_daemon(there, BHYVE_SHIM_MODEL="Another CPU")
    code, _ = drover(here, "migrate", guest.name, there.name, check=False)
    assert code != 0
    guest.assert_runs_only_on(here)
    there.stop_daemon()
    bhyvelab.start_daemon(there, **guest.environment)


def test_a_cancelled_move_leaves_the_guest_where_it_was(two, guest):
    here, there = sides(two, guest)
    for point, holder in (("wire.send.half", here), ("migrate.src.before_stop", here)):
        bhyvelab.hold_and(two, guest, holder, point, lambda: drover(
            here, "migration", "cancel", bhyvelab.newest(here, guest), check=False))
        assert bhyvelab.running(two, guest) and bhyvelab.running(two, guest)[0].name == here.name
        guest.assert_runs_only_on(here)
    assert not bhyvelab.movers(there)
