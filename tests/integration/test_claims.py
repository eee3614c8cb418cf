"""Nodes that claim at the same time, each in a process of its own, on several file systems.

DROVER_RACE_EPOCHS is how many epochs they race for; `make race` has thousands.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from droverlab.paths import PROGRAMS

RACER = PROGRAMS / "tests" / "unit" / "claim_racer"
EPOCHS = int(os.environ.get("DROVER_RACE_EPOCHS", "300"))
LIMIT_S = 600


@pytest.fixture(name="directory")
def fixture_directory():
    path = Path(tempfile.mkdtemp(prefix="drover-claims-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def race(pools):
    """Two racers for each of these mounts of one pool: who won which epoch. No epoch is won twice."""
    subprocess.run([RACER, "make", pools[0]], check=True, timeout=60)
    racers = [subprocess.Popen([RACER, pool, f"node{i}", str(EPOCHS)], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
              for i, pool in enumerate(list(pools) * 2)]
    winners, lost = {}, 0
    try:
        for i, racer in enumerate(racers):
            out, err = racer.communicate(timeout=LIMIT_S)
            assert racer.returncode == 0, err
            for word in out.split("\n")[:-2]:
                assert int(word) not in winners, f"epoch {word}: node{i} and {winners[int(word)]}"
                winners[int(word)] = f"node{i}"
            lost += int(out.split()[-1])
    finally:
        for racer in racers:
            if racer.poll() is None:
                racer.kill()
                racer.wait()
    # An epoch whose claimer was overtaken before it looked is won by nobody; a race that nobody loses
    # shows nothing.
    assert max(winners) <= EPOCHS and len(winners) > EPOCHS // 10, len(winners)
    assert lost > 0 and len(set(winners.values())) > 1
    for pool in pools:
        names = os.listdir(Path(pool) / "vms" / "raced")
        assert f"owner.{EPOCHS}" in names and not [n for n in names if n.startswith(".tmp.")], names
        text = (Path(pool) / "vms" / "raced" / f"owner.{EPOCHS}").read_text()
        if EPOCHS in winners:
            assert f"node = {winners[EPOCHS]}\n" in text


def test_no_epoch_is_won_twice_on_a_local_directory(directory):
    race([directory / "pool"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root only")
def test_no_epoch_is_won_twice_on_a_loop_mounted_ext4(directory):
    image, mount = directory / "image", directory / "mount"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, mount], check=False, text=True,
                          stderr=subprocess.PIPE)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted by loop here: {done.stderr.strip()}")
    try:
        race([mount / "pool"])
    finally:
        subprocess.run(["umount", mount], check=True)


def gluster(*words):
    return subprocess.run(["gluster", "--mode=script", *words], check=False, text=True, timeout=120,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(name="gluster_mounts")
def fixture_gluster_mounts(directory):
    """One replicated volume of two bricks on this machine, mounted twice."""
    if os.geteuid() != 0 or not shutil.which("glusterd") or not os.path.exists("/dev/fuse"):
        pytest.skip("GlusterFS needs root, /dev/fuse and the packages of tests/race/packages.txt")
    if subprocess.run(["pidof", "glusterd"], check=False, stdout=subprocess.DEVNULL).returncode == 0:
        pytest.skip("a glusterd runs here already: it is not this test's to use")
    volume = directory.name
    daemon = subprocess.Popen(["glusterd", "--no-daemon", "-l", directory / "glusterd.log"])
    mounts = [directory / "a", directory / "b"]
    try:
        deadline = time.monotonic() + 30
        while gluster("volume", "list").returncode != 0:
            assert daemon.poll() is None and time.monotonic() < deadline, "glusterd does not answer"
        host = os.uname().nodename
        bricks = [f"{host}:{directory}/brick{i}" for i in range(2)]
        for words in (["create", volume, "replica", "2", *bricks, "force"], ["start", volume]):
            said = gluster("volume", *words)
            if said.returncode != 0:
                pytest.skip(f"GlusterFS makes no volume here: {said.stdout.strip()}")
        for mount in mounts:
            mount.mkdir()
            subprocess.run(["mount", "-t", "glusterfs", f"{host}:/{volume}", mount], check=True)
        yield mounts
    finally:
        for mount in mounts:
            if mount.is_mount():
                subprocess.run(["umount", mount], check=True)
        gluster("volume", "stop", volume, "force")
        gluster("volume", "delete", volume)
        daemon.terminate()
        daemon.wait(30)


def test_no_epoch_is_won_twice_on_two_mounts_of_glusterfs(gluster_mounts):
    race([mount / "pool" for mount in gluster_mounts])
