"""Every cell of bhyvelab.cells(), with what a source's bhyve makes of a connection that ends set to both
things that it can be: `make check-bhyve`."""

import pytest

import bhyvelab
from vms import drover


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


def test_a_bhyve_that_does_not_like_the_other_host_leaves_the_guest_where_it_was(two, guest):
    here = bhyvelab.running(two, guest)[0]
    there = next(node for node in two.nodes if node.name != here.name)
    there.stop_daemon()
    bhyvelab.start_daemon(there, BHYVE_SHIM_MODEL="Another CPU")
    code, _ = drover(here, "migrate", guest.name, there.name, check=False)
    assert code != 0
    guest.assert_runs_only_on(here)
    there.stop_daemon()
    bhyvelab.start_daemon(there, **guest.environment)


def test_a_cancelled_move_leaves_the_guest_where_it_was(two, guest):
    here = bhyvelab.running(two, guest)[0]
    there = next(node for node in two.nodes if node.name != here.name)
    for point, holder in (("wire.send.half", here), ("migrate.src.before_stop", here)):
        bhyvelab.hold_and(two, guest, holder, point, lambda: drover(
            here, "migration", "cancel", bhyvelab.newest(here, guest), check=False))
        assert bhyvelab.running(two, guest) and bhyvelab.running(two, guest)[0].name == here.name
        guest.assert_runs_only_on(here)
    assert not bhyvelab.movers(there)
