"""Moves of real guests by the bhyve driver, over the shim of tests/bhyve-shim: `make check-bhyve` has more
of them. Each ends with the guest's check of its own memory, and with no two copies that ever ran at
once."""

import subprocess

import pytest

import bhyvelab
from bhyvelab import BhyveGuest, assert_never_twice, bhyve_lab, start_daemon
from vms import Watch, drover, error_of, leftovers, wait_for

@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return bhyve_lab(make_lab)


@pytest.fixture(scope="module")
def guest(two):
    return BhyveGuest(two, two.nodes[0], "beastie")


def where(two, guest):
    """The node that it is on, and the other one."""
    here = bhyvelab.running(two, guest)[0]
    return here, next(node for node in two.nodes if node.name != here.name)


def test_moves_live_there_and_back_while_a_client_talks_to_it(two, guest):
    here, there = where(two, guest)
    guest.ask("dirty", 5, "words")
    with Watch(guest) as watch:
        drover(here, "migrate", guest.name, there.name)
        guest.assert_runs_only_on(there)
        _, said = drover(there, "migrate", guest.name, here.name)
        guest.assert_runs_only_on(here)
    assert watch.result["tcp_survived"], watch.result
    report = said[-1]["result"]["report"]
    assert report["unknown_bytes"] == 0 and report["pages"]["zero"] > 0, report
    assert_never_twice(two)
    wait_for(lambda: leftovers(there, []) == [], "the end of what the move left")


def test_moves_warm(two, guest):
    here, there = where(two, guest)
    _, said = drover(here, "migrate", guest.name, there.name, "--pause")
    guest.assert_runs_only_on(there)
    report = said[-1]["result"]["report"]
    assert report["downtime_ms"] > 0 and report["unknown_bytes"] == 0, report
    assert_never_twice(two)


def test_goes_on_where_it_was_suspended_on_another_node(two, guest):
    here, there = where(two, guest)
    drover(here, "suspend", guest.name)
    wait_for(lambda: leftovers(here, []) == [], "the end of all that was of the VM here")
    drover(there, "start", guest.name)
    guest.assert_runs_only_on(there)
    assert_never_twice(two)


def test_goes_on_while_droverd_is_killed_and_is_found_again(two, guest):
    here, _ = where(two, guest)
    before = guest.pids(here)
    bhyvelab.kill(here, guest, "droverd")
    guest.assert_memory_is_right()
    start_daemon(here)
    guest.assert_runs_only_on(here)
    assert guest.pids(here) == before


def test_its_console_answers(two, guest):
    here, _ = where(two, guest)
    console = here.popen("timeout", "60", "drover", "console", guest.name, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
    console.stdin.write("\necho it is $((40 + 2))\n")
    console.stdin.flush()
    assert any("it is 42" in line for line in console.stdout)
    console.stdin.write("~.")
    console.stdin.close()
    assert console.wait(60) == 0


@pytest.mark.parametrize("cell", [c for c in bhyvelab.cells() if c.core], ids=str)
def test_a_fault_leaves_one_whole_copy(two, guest, cell):
    bhyvelab.run_cell(two, guest, cell)


def test_a_copy_that_ended_unwatched_before_it_ran_is_given_back(two, guest):
    """It was claimed for: the next droverd finds a VM of its own whose hypervisor is gone."""
    here, there = where(two, guest)

    def end_both():
        bhyvelab.kill(there, guest, "droverd")
        bhyvelab.kill(there, guest, "hypervisor")
    bhyvelab.hold_and(two, guest, there, "migrate.dst.after_claim", end_both)
    guest.assert_runs_only_on(here)
    guest.assert_memory_is_right()
    assert_never_twice(two)


@pytest.mark.parametrize("key, value", [("machine", "pc-q35-10.0"), ("cpu", "qemu64"),
                                        ("vnc", "unix"), ("disk", "disk0.qcow2,format=qcow2,size=1M")])
def test_refuses_what_bhyve_has_not_by_its_key(two, key, value):
    code, said = drover(two.nodes[0], "create", "refused", "--hypervisor", "bhyve", f"--{key}",
                        value, check=False)
    assert code != 0
    assert f"bhyve has no {key}" in error_of(said)["message"], said


def test_stops_by_the_power_button_and_leaves_nothing(two, guest):
    here, _ = where(two, guest)
    _, (answer,) = drover(here, "stop", guest.name)
    assert answer["forced"] is False, answer
    wait_for(lambda: leftovers(here, []) == [], "the end of all that was of the VM")
    assert here.run("sh", "-c", f"ls {bhyvelab.DIRECTORY}/vmm").stdout == ""
    drover(here, "rm", guest.name, "--yes")
