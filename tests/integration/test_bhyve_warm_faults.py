"""Guests that move as files (test_bhyve_warm.py), and everything that can go wrong: `make check-bhyve`."""

import contextlib
import signal
import threading

import pytest

import bhyvelab
from bhyvelab import DESTINATION, RELEASED, SOURCE, BhyveGuest, Cell, hold_and
from vms import drover, error_of, wait_for


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return bhyvelab.bhyve_lab(make_lab, "warmfaults", **RELEASED)


@pytest.fixture(scope="module")
def guest(two):
    it = BhyveGuest(two, two.nodes[0], "beastie")
    it.environment, it.options = RELEASED, ["--warm", "--reconnect", "3"]
    return it


def where(two, guest):
    here = bhyvelab.running(two, guest)[0]
    return here, next(node for node in two.nodes if node.name != here.name)


def assert_still_on(two, guest, node):
    wait_for(lambda: bhyvelab.running(two, guest), "a guest that runs")
    guest.assert_runs_only_on(node)
    bhyvelab.assert_never_twice(two)
    assert bhyvelab.suspended_files(two) == []


@pytest.mark.parametrize("cell", bhyvelab.warm_cells(), ids=str)
def test_a_fault_leaves_one_whole_copy(two, guest, cell):
    bhyvelab.run_cell(two, guest, cell)
    assert bhyvelab.suspended_files(two) == []


@pytest.mark.parametrize("cell", [c for c in bhyvelab.warm_cells() if c.victim == "droverd"], ids=str)
def test_a_droverd_that_comes_back_late_leaves_one_whole_copy(two, guest, cell):
    bhyvelab.run_cell(two, guest, cell, late=True)
    assert bhyvelab.suspended_files(two) == []


@pytest.mark.parametrize("side, point", [(SOURCE, "hv.suspend.after"), (SOURCE, "wire.send.half"),
                                         (DESTINATION, "migrate.dst.after_claim"),
                                         (SOURCE, "migrate.src.before_handover")])
def test_both_droverds_and_data_movers_that_are_killed_leave_one_whole_copy(two, guest, side, point):
    here, there = where(two, guest)

    def kill_all():
        for node in (here, there):
            node.stop_daemon(signal.SIGKILL)
            bhyvelab.kill(node, guest, "drover-wire")

    hold_and(two, guest, (here, there)[side], point, kill_all)
    wait_for(lambda: bhyvelab.running(two, guest), "a guest that runs")
    guest.assert_runs_only_on(bhyvelab.running(two, guest)[0])
    bhyvelab.assert_never_twice(two)
    assert bhyvelab.suspended_files(two) == []


@pytest.mark.parametrize("point", ["hv.suspend.before", "hv.suspend.after", "wire.send.half"])
def test_a_cancelled_move_goes_on_where_it_was(two, guest, point):
    here, _ = where(two, guest)
    hold_and(two, guest, here, point, lambda: drover(
        here, "migration", "cancel", bhyvelab.newest(here, guest)))
    assert_still_on(two, guest, here)


def test_a_source_goes_on_trying_to_go_on_from_the_files(two, guest):
    here, _ = where(two, guest)
    with bhyvelab.failing(here, "restore") as failing:

        def mend():
            wait_for(lambda: "does not go on here yet" in here.log_tail(200), "a try that fails")
            failing.unlink()

        thread = threading.Thread(target=mend)

        def cancel():
            drover(here, "migration", "cancel", bhyvelab.newest(here, guest))
            thread.start()

        hold_and(two, guest, here, "hv.suspend.after", cancel)
        thread.join()
    assert_still_on(two, guest, here)


@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_files_that_the_guest_has_run_from_are_never_used_again(two, guest, side):
    """Its disks are newer."""
    here, there = where(two, guest)
    node = (here, there)[side]

    def kill_both():
        bhyvelab.kill(node, guest, "bhyve")
        bhyvelab.kill(node, guest, "droverd")

    with bhyvelab.failing(there, "restore") if side == SOURCE else contextlib.nullcontext():
        hold_and(two, guest, node, "hv.restore.after", kill_both)
    bhyvelab.assert_one_copy(two, guest, Cell(side, "", "bhyve", side, lost=True))
    assert bhyvelab.suspended_files(two) == []


def test_what_is_half_written_is_no_guest(two, guest):
    here, there = where(two, guest)
    with bhyvelab.failing(here, "suspend"):
        code, said = drover(here, "migrate", guest.name, there.name, *guest.options, check=False)
    assert code != 0
    assert "before it had written the guest" in error_of(said)["message"], said
    bhyvelab.assert_one_copy(two, guest, Cell(SOURCE, "", "bhyve", SOURCE, lost=True))
    assert bhyvelab.suspended_files(two) == []


@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_a_place_that_is_full_all_at_once_leaves_it_where_it_was(two, guest, side):
    here, there = where(two, guest)
    with bhyvelab.small_place((here, there)[side]) as fill_up:
        hold_and(two, guest, here, "hv.suspend.before", fill_up)
        assert_still_on(two, guest, here)


@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_a_place_without_room_is_refused_before(two, guest, side):
    here, there = where(two, guest)
    with bhyvelab.small_place((here, there)[side]) as fill_up:
        fill_up()
        code, (report,) = drover(here, "migrate", guest.name, there.name, "--check", "--warm",
                                 "--no-estimate", check=False)
    room = next(check for check in report["checks"] if check["id"] == "room")
    assert code != 0 and room["result"] == "failed", report
    assert "suspend_dir" in room["message"], room


def test_a_network_that_is_cut_leaves_it_where_it_was(two, guest):
    here, _ = where(two, guest)
    with bhyvelab.cut_off(here) as cut:
        hold_and(two, guest, here, "hv.suspend.after", cut)
    assert_still_on(two, guest, here)


def test_a_network_that_is_cut_after_the_claim_leaves_it_there(two, guest):
    here, there = where(two, guest)
    with bhyvelab.cut_off(here) as cut:
        hold_and(two, guest, there, "migrate.dst.after_claim", cut)
    assert_still_on(two, guest, there)
