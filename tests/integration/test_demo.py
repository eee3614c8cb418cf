"""The demo: it shows two moves in which nothing was lost, and leaves nothing, however it ends."""

import os
import re
import signal
import subprocess

import pytest
from droverlab.lab import Lab
from droverlab.paths import ROOT

from traces import traces

RUN_TIMEOUT_S = 300


def start_demo(lab, *options):
    return subprocess.Popen([ROOT / "lab" / "demo", *options], text=True, start_new_session=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            env={**os.environ, "DROVER_LAB": str(lab.directory)})


@pytest.fixture(name="lab")
def fixture_lab(tmp_path, tiny_guest):
    lab = Lab(tmp_path / "lab")
    yield lab
    lab.down()


def test_demo_moves_there_and_back_and_leaves_nothing(lab):
    demo = start_demo(lab)
    out, err = demo.communicate(timeout=RUN_TIMEOUT_S)
    assert demo.returncode == 0, out + err
    assert len(re.findall(r"total time +[0-9.]+ s", out)) == 2
    assert len(re.findall(r"downtime the client saw +[0-9]+ ms", out)) == 2
    assert len(re.findall(r"on the wire +[0-9.]+ MB", out)) == 2
    assert len(re.findall(r"TCP connection +[0-9a-f]{16}: the same one", out)) == 2
    assert len(re.findall(r"[0-9]+ pages checked, every one right", out)) == 2
    assert traces(lab) == []


@pytest.mark.parametrize("after,number", [
    (None, signal.SIGINT), ("are up", signal.SIGINT), ("drover start", signal.SIGINT),
    ("bmigrate", signal.SIGINT), ("bmigrate", signal.SIGTERM), ("total time", signal.SIGINT)])
def test_interrupted_demo_leaves_nothing(lab, after, number):
    """after: the words in its output after which the signal comes; None: its first namespace."""
    demo = start_demo(lab)
    if after is None:
        while demo.poll() is None and not (lab.directory / "nodes").exists():
            os.sched_yield()
    else:
        assert any(after in line for line in demo.stdout), demo.communicate()
    os.killpg(demo.pid, number)
    _, err = demo.communicate(timeout=60)
    assert demo.returncode != 0 and "interrupted" in err
    assert traces(lab) == []


def test_kept_demo_can_be_looked_at_and_taken_down(lab):
    demo = start_demo(lab, "--keep")
    out, err = demo.communicate(timeout=RUN_TIMEOUT_S)
    assert demo.returncode == 0, out + err
    assert "lab/lab down" in out
    assert '"web1"' in lab.node("node1").run("drover", "ls", "--json").stdout
    subprocess.run([ROOT / "lab" / "lab", "--lab", lab.directory, "down"], check=True, timeout=60)
    assert traces(lab) == []
