"""`drover suspend`: a guest's state in the pool, from which any node lets it go on, once. With QEMU;
test_bhyve.py has the same of bhyve."""

import json
import os
import re
import subprocess
import time

import pytest

from sleeper import DISK, assert_goes_on, info, where, work
from vms import Guest, drover, error_of, guest_client, wait_for


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("two", nodes=2)


@pytest.fixture(scope="module")
def guest(two):
    return work(Guest(two, two.nodes[0], "sleeper", disk=DISK))


def saved(two, guest):
    return two.pool / "vms" / guest.name / "saved"


def goes_on(two, guest, node):
    """It goes on, and its state is gone."""
    assert_goes_on(two, guest, node)
    assert not saved(two, guest).exists()
    assert not list((two.pool / "vms" / guest.name).glob(".tmp*"))


def test_goes_on_where_it_was_suspended_on_another_node(two, guest):
    here, there = where(two, guest)
    drover(here, "suspend", guest.name)
    assert not guest.pids(here)
    for node in two.nodes:
        shown = info(node, guest)
        assert (shown["state"], shown["node"], shown["saved"]["node"]) == (
            "suspended", None, here.name), shown
    code, said = drover(here, "migrate", guest.name, there.name, check=False)
    assert code and "is suspended" in error_of(said)["message"], said
    assert f"`drover start {guest.name} --node {there.name}`" in error_of(said)["message"], said
    code, said = drover(here, "rename", guest.name, "other", check=False)
    assert code and "is suspended" in error_of(said)["message"], said
    drover(there, "start", guest.name)
    goes_on(two, guest, there)


def test_is_started_once_when_both_nodes_start_it(two, guest):
    here, _ = where(two, guest)
    drover(here, "suspend", guest.name)
    starts = [node.popen("drover", "start", guest.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
              for node in two.nodes]
    assert sorted(start.wait(60) == 0 for start in starts) == [False, True]
    winner = two.nodes[[start.returncode for start in starts].index(0)]
    goes_on(two, guest, winner)


def test_is_not_started_when_its_disk_was_written_to_since(two, guest):
    here, _ = where(two, guest)
    drover(here, "suspend", guest.name)
    disk = two.pool / "vms" / guest.name / "disk0.raw"
    times = (disk.stat().st_atime_ns, disk.stat().st_mtime_ns)
    os.utime(disk, ns=(times[0], times[1] + 1))
    code, said = drover(here, "start", guest.name, check=False)
    assert code and re.search("disk0 .*has been written to since", error_of(said)["message"]), said
    assert info(here, guest)["state"] == "suspended"
    os.utime(disk, ns=times)
    drover(here, "start", guest.name)
    goes_on(two, guest, here)


def change(two, guest, **keys):
    """Of the record of the state; what it said before."""
    file = saved(two, guest) / "saved.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps({**before, **keys}))
    return {key: before[key] for key in keys}


@pytest.mark.parametrize("keys, reason", [({"version": "99.0.0"}, "which is older"),
                                          ({"accel": "kvm"}, "it was made with"),
                                          ({"format": 2}, "cannot be read"),
                                          ({"disks": []}, "does not have the disks")])
def test_is_not_started_from_what_cannot_work(two, guest, keys, reason):
    here, _ = where(two, guest)
    if info(here, guest)["state"] != "suspended":
        drover(here, "suspend", guest.name)
    before = change(two, guest, **keys)
    code, said = drover(here, "start", guest.name, check=False)
    assert code and reason in error_of(said)["message"], said
    change(two, guest, **before)
    assert not guest.pids(here) and info(here, guest)["state"] == "suspended"


def cpu_in_force(two, guest):
    text = (two.pool / "vms" / guest.name / "vm.conf").read_text()
    return re.search("^cpu_in_force = (.*)$", text, re.MULTILINE)[1]


def test_goes_on_by_the_definition_that_it_had(two, guest):
    here, _ = where(two, guest)
    if info(here, guest)["state"] != "suspended":
        drover(here, "suspend", guest.name)
    has = cpu_in_force(two, guest)
    said = here.run("drover", "set", guest.name, "memory=256M").stdout
    assert "suspended" in said and f"`drover start {guest.name} --discard`" in said, said
    # It is told as its guest has it, and vm.conf keeps what that has been given.
    assert info(here, guest)["memory"] == 192 << 20
    assert cpu_in_force(two, guest) == has
    drover(here, "start", guest.name)
    goes_on(two, guest, here)
    assert info(here, guest)["memory"] == 192 << 20
    assert cpu_in_force(two, guest) == has


def test_is_not_removed_with_its_state_by_a_mere_yes(two, guest):
    here, _ = where(two, guest)
    drover(here, "suspend", guest.name)
    code, said = drover(here, "rm", guest.name, "--yes", check=False)
    assert code and error_of(said)["kind"] == "refused", said
    status, answer = here.api("DELETE", f"/v1/vms/{guest.name}")
    assert status == 403 and answer["error"]["message"] == error_of(said)["message"], answer
    for way in ("start {}`", "--discard boots", "rm {} --discard`"):
        assert way.format(guest.name) in error_of(said)["message"], said
    assert saved(two, guest).exists() and info(here, guest)["state"] == "suspended"
    # What is thrown away is said before it is.
    code, said = drover(here, "rm", guest.name, "--discard", check=False)
    assert code and "--yes" in error_of(said)["message"], said
    drover(here, "start", guest.name)
    goes_on(two, guest, here)


@pytest.mark.parametrize("point, suspended", [("vm.suspend.before_save", False),
                                              ("vm.suspend.before_publish", True),
                                              ("vm.suspend.before_release", True)])
def test_a_droverd_that_is_killed_leaves_it_suspended_or_running(two, guest, point, suspended):
    here, _ = where(two, guest)
    here.stop_daemon()
    here.start_daemon(DROVER_FAULT=f"{point}:kill")
    drover(here, "suspend", guest.name, check=False)
    wait_for(lambda: here.daemon_pid is None, "the death of droverd")
    here.start_daemon()
    state = "suspended" if suspended else "running"
    wait_for(lambda: info(here, guest)["state"] == state, f"it is {state}")
    wait_for(lambda: not info(here, guest).get("operation"), "the end of it")
    if suspended:
        drover(here, "start", guest.name)
    goes_on(two, guest, here)


def test_goes_on_when_its_state_cannot_be_put_in_its_place(two, guest):
    here, _ = where(two, guest)
    here.stop_daemon()
    here.start_daemon(DROVER_FAULT="vm.suspend.before_publish:error")
    code, said = drover(here, "suspend", guest.name, check=False)
    assert code and "its guest goes on" in error_of(said)["message"], said
    goes_on(two, guest, here)
    here.stop_daemon()
    here.start_daemon()


def test_a_droverd_that_is_killed_when_the_guest_runs_again_leaves_no_state(two, guest):
    here, _ = where(two, guest)
    drover(here, "suspend", guest.name)
    here.stop_daemon()
    here.start_daemon(DROVER_FAULT="vm.start.before_remove:kill")
    drover(here, "start", guest.name, check=False)
    wait_for(lambda: here.daemon_pid is None, "the death of droverd")
    assert saved(two, guest).exists()
    here.start_daemon()
    goes_on(two, guest, here)


@pytest.mark.parametrize("point", ["vm.start.before_claim", "vm.start.after_claim",
                                   "vm.start.before_resume"])
def test_a_droverd_that_is_killed_in_its_start_leaves_the_state(two, guest, point):
    here, there = where(two, guest)
    drover(here, "suspend", guest.name)
    here.stop_daemon()
    here.start_daemon(DROVER_FAULT=f"{point}:kill")
    drover(here, "start", guest.name, check=False)
    wait_for(lambda: here.daemon_pid is None, "the death of droverd")
    assert saved(two, guest).exists()
    here.start_daemon()
    wait_for(lambda: info(here, guest)["state"] == "suspended" and not guest.pids(here),
             "it is suspended")
    assert not (saved(two, guest) / "begun").exists()
    drover(there, "start", guest.name)
    goes_on(two, guest, there)


def test_boots_anew_when_its_state_is_discarded(two, guest):
    here, _ = where(two, guest)
    drover(here, "suspend", guest.name)
    uptime = time.monotonic()
    drover(here, "start", guest.name, "--discard")
    guest_client.wait_ready(two.guests, guest.address, 60)
    assert not saved(two, guest).exists()
    guest.ask("fill", 8, "text")
    assert uptime
    drover(here, "suspend", guest.name)
    drover(here, "rm", guest.name, "--discard", "--yes")
    assert not (two.pool / "vms" / guest.name).exists()
