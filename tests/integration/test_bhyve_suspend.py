"""`drover suspend` with bhyve, over the shim of tests/bhyve-shim: its state in three files, which bhyve
writes before it ends, and a restored guest that runs at once. test_suspend.py has what does not
depend on the hypervisor, test_bhyve.py the plain case: `make check-bhyve`."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

import bhyvelab
from bhyvelab import BhyveGuest, assert_never_twice, bhyve_lab, start_daemon
from sleeper import DISK, assert_goes_on, info, where, work
from vms import drover, error_of, wait_for

POOL_MIB = 440  # once the state of a guest, and what is asked for beside it


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return bhyve_lab(make_lab, pool_mib=POOL_MIB)


@pytest.fixture(scope="module")
def guest(two):
    return work(BhyveGuest(two, two.nodes[0], "sleeper", options=("--disk", DISK)))


def directory(two, guest):
    return two.pool / "vms" / guest.name


def arm(node, fault):
    node.stop_daemon()
    start_daemon(node, **({"DROVER_FAULT": fault} if fault else {}))


def goes_on(two, guest, node):
    """It goes on, and its state is gone."""
    assert_goes_on(two, guest, node)
    wait_for(lambda: not (directory(two, guest) / "saved").exists(), "the end of the state")
    assert not list(directory(two, guest).glob(".tmp*"))
    assert_never_twice(two)


@pytest.mark.parametrize("keys, reason", [({"cpu_model": "Another CPU"}, "CPU \"Another CPU\""),
                                          ({"version": "14.1-RELEASE"}, "of 14.1-RELEASE")])
def test_is_not_started_where_bhyve_would_refuse_or_misread_it(two, guest, keys, reason):
    here, _ = where(two, guest)
    if info(here, guest)["state"] != "suspended":
        drover(here, "suspend", guest.name)
    file = directory(two, guest) / "saved" / "saved.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), **keys}))
    code, said = drover(here, "start", guest.name, check=False)
    assert code and reason in error_of(said)["message"], said
    file.write_text(before)
    assert info(here, guest)["state"] == "suspended" and not guest.pids(here)


def test_a_bhyve_that_cannot_load_it_leaves_it(two, guest):
    here, _ = where(two, guest)
    if info(here, guest)["state"] != "suspended":
        drover(here, "suspend", guest.name)
    file = directory(two, guest) / "saved" / "state.meta"
    before = file.read_text()
    file.write_text("{}")
    code, _ = drover(here, "start", guest.name, check=False)
    assert code and info(here, guest)["state"] == "suspended"
    assert not (directory(two, guest) / "saved" / "begun").exists()
    file.write_text(before)
    drover(here, "start", guest.name)
    goes_on(two, guest, here)


def test_a_droverd_that_is_killed_while_bhyve_writes_leaves_it_suspended(two, guest):
    here, there = where(two, guest)
    order = here.popen("drover", "suspend", guest.name, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    wait_for(lambda: list(directory(two, guest).glob(".tmp.saved.*/state")), "bhyve to write")
    here.stop_daemon(signal.SIGKILL)
    order.wait(60)
    start_daemon(here)
    wait_for(lambda: info(here, guest)["state"] == "suspended", "its state to be whole")
    drover(there, "start", guest.name)
    goes_on(two, guest, there)


@pytest.mark.parametrize("point", ["vm.suspend.before_publish", "vm.start.before_resume",
                                   "vm.start.before_remove"])
def test_a_droverd_that_is_killed_loses_nothing(two, guest, point):
    here, _ = where(two, guest)
    arm(here, f"{point}:kill")
    for verb in ("suspend", "start"):
        if here.daemon_pid is not None:
            drover(here, verb, guest.name, check=False)
    wait_for(lambda: here.daemon_pid is None, "the death of droverd")
    start_daemon(here)
    if point != "vm.start.before_remove":
        wait_for(lambda: info(here, guest)["state"] == "suspended" and not guest.pids(here),
                 "it is suspended")
        drover(here, "start", guest.name)
    goes_on(two, guest, here)


def test_a_bhyve_that_ended_unwatched_before_it_ran_leaves_it_suspended(two, guest):
    here, _ = where(two, guest)
    drover(here, "suspend", guest.name)
    order = here.popen("drover", "start", guest.name, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    (bhyve,) = wait_for(lambda: here.path(f"{bhyvelab.DIRECTORY}/vmm/{guest.name}").exists() and
                        guest.pids(here), "the start of bhyve")
    os.kill(bhyve, signal.SIGSTOP)  # it has a state to load first
    here.stop_daemon(signal.SIGKILL)
    order.wait(60)
    os.kill(bhyve, signal.SIGKILL)
    start_daemon(here)
    wait_for(lambda: info(here, guest)["state"] == "suspended", "it is suspended")
    drover(here, "start", guest.name)
    goes_on(two, guest, here)


def test_a_state_that_cannot_be_put_in_its_place_is_not_lost(two, guest):
    """Nor by the next droverd: bhyve has ended, and the guest is nowhere else."""
    here, _ = where(two, guest)
    arm(here, "vm.suspend.before_publish:kill")
    drover(here, "suspend", guest.name, check=False)
    wait_for(lambda: here.daemon_pid is None, "the death of droverd")
    disk = directory(two, guest) / "disk0.raw"
    disk.rename(disk.with_suffix(".away"))  # what it cannot describe, it does not put there
    start_daemon(here)
    assert info(here, guest)["state"] == "down" and info(here, guest)["operation"]
    disk.with_suffix(".away").rename(disk)
    arm(here, None)
    wait_for(lambda: info(here, guest)["state"] == "suspended", "it is suspended")
    drover(here, "start", guest.name)
    goes_on(two, guest, here)


@contextlib.contextmanager
def full_pool(two, leave_mib=0):
    filler = two.pool / "filler"
    space = os.statvfs(two.pool)
    try:
        with open(filler, "wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0,
                               space.f_bavail * space.f_frsize - (leave_mib << 20))
        yield
    finally:
        filler.unlink()


def test_is_not_begun_without_room_in_the_pool(two, guest):
    here, _ = where(two, guest)
    with full_pool(two, 200):
        code, said = drover(here, "suspend", guest.name, check=False)
    assert code and error_of(said)["kind"] == "no-space", said
    goes_on(two, guest, here)


def test_a_pool_that_is_full_in_the_middle_leaves_it_running(two, guest):
    here, there = where(two, guest)
    held = here.path(bhyvelab.HOLD)
    arm(here, f"vm.suspend.before_save:file={bhyvelab.HOLD}")
    order = here.popen("drover", "suspend", guest.name, "--json", stdout=subprocess.PIPE, text=True)
    wait_for(held.with_name(held.name + ".reached").exists, "the suspend")
    with full_pool(two, 20):
        held.touch()
        said = json.loads(order.communicate(timeout=120)[0])
        assert order.returncode and "goes on" in said["error"]["message"], said
    goes_on(two, guest, here)
    arm(here, None)
    drover(here, "suspend", guest.name)
    drover(there, "start", guest.name)
    goes_on(two, guest, there)
