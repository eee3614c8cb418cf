"""Nodes that claim at the same time, each in a process of its own, on local file systems;
test_storage.py has those that nodes share.

DROVER_RACE_EPOCHS is how many epochs they race for; `make race` has thousands.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from claims import here, race


@pytest.fixture(name="directory")
def fixture_directory():
    path = Path(tempfile.mkdtemp(prefix="drover-claims-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_no_epoch_is_won_twice_on_a_local_directory(directory):
    race([(here, directory / "pool")])


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
        race([(here, mount / "pool")])
    finally:
        subprocess.run(["umount", mount], check=True)
