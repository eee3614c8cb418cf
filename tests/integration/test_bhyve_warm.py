"""Moves of real guests between nodes whose bhyve is one of a FreeBSD release, over the shim: it can be
suspended to files and go on from them, and nothing more. `make check-bhyve` has more of them."""

import pytest

import bhyvelab
from bhyvelab import RELEASED, BhyveGuest, assert_never_twice, bhyve_lab
from vms import Watch, drover, error_of, leftovers

@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return bhyve_lab(make_lab, "warm", **RELEASED)


@pytest.fixture(scope="module")
def guest(two):
    it = BhyveGuest(two, two.nodes[0], "beastie")
    it.environment, it.options = RELEASED, ["--warm"]
    return it


def where(two, guest):
    """The node that it is on, and the other one."""
    here = bhyvelab.running(two, guest)[0]
    return here, next(node for node in two.nodes if node.name != here.name)


def test_says_for_how_long_it_would_stand_still_before_it_does(two, guest):
    here, there = where(two, guest)
    code, said = drover(here, "migrate", guest.name, there.name, check=False)
    assert code != 0
    assert "--warm accepts that" in error_of(said)["message"], said
    assert "stand still for about" in error_of(said)["message"], said
    _, (report,) = drover(here, "migrate", guest.name, there.name, "--check", "--warm")
    low, high = report["estimate"]["downtime_ms"]
    assert 0 < low < high, report["estimate"]
    assert "files were written at" in " ".join(report["estimate"]["because"]), report["estimate"]
    guest.assert_runs_only_on(here)


def test_moves_there_and_back_while_a_client_talks_to_it(two, guest):
    here, there = where(two, guest)
    guest.ask("dirty", 5, "words")
    with Watch(guest) as watch:
        _, said = drover(here, "migrate", guest.name, there.name, "--warm")
        guest.assert_runs_only_on(there)
        drover(there, "migrate", guest.name, here.name, "--warm")
        guest.assert_runs_only_on(here)
    assert watch.result["tcp_survived"], watch.result
    report = said[-1]["result"]["report"]
    assert report["warm"] and report["downtime_ms"] > 0, report
    assert report["unknown_bytes"] == 0 and report["pages"]["zero"] > 0, report
    assert "stands still for about" in said[0]["warnings"][0]["message"], said
    assert_never_twice(two)
    assert leftovers(there, []) == []
    assert bhyvelab.suspended_files(two) == []


def test_a_destination_that_cannot_go_on_from_the_files_gives_the_vm_back(two, guest):
    here, there = where(two, guest)
    with bhyvelab.failing(there, "restore"):
        code, said = drover(here, "migrate", guest.name, there.name, "--warm", check=False)
    assert code != 0
    assert "Failed to restore kernel structs" in error_of(said)["message"], said
    guest.assert_runs_only_on(here)
    assert_never_twice(two)
    assert bhyvelab.suspended_files(two) == []


@pytest.mark.parametrize("cell", [c for c in bhyvelab.warm_cells() if c.core], ids=str)
def test_a_fault_leaves_one_whole_copy(two, guest, cell):
    bhyvelab.run_cell(two, guest, cell)
    assert bhyvelab.suspended_files(two) == []
