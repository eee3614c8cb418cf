"""A race for the epochs of a VM in a pool that several processes, or nodes, see."""

import os
import subprocess

from droverlab.paths import PROGRAMS

RACER = PROGRAMS / "tests" / "unit" / "claim_racer"
# How many epochs are raced for; `make race` has thousands.
EPOCHS = int(os.environ.get("DROVER_RACE_EPOCHS", "300"))
LIMIT_S = 600


def here(*command):
    """Runs a command on this machine; a lab's node has its own way (`node.command`)."""
    return command


def _output(runner, *command):
    return subprocess.run(runner(*command), check=True, timeout=60, text=True,
                          stdout=subprocess.PIPE).stdout


def _results(racers):
    """Who won which epoch, none of them twice, and how many claims were lost."""
    winners, lost = {}, 0
    for i, racer in enumerate(racers):
        out, err = racer.communicate(timeout=LIMIT_S)
        assert racer.returncode == 0, err
        for word in out.split("\n")[:-2]:
            assert int(word) not in winners, f"epoch {word}: node{i} and {winners[int(word)]}"
            winners[int(word)] = f"node{i}"
        lost += int(out.split()[-1])
    return winners, lost


def race(mounts, racer=RACER):
    """Two racers for each of these (runner, directory), mounts of one pool that is made first. No
    epoch is won twice, and afterwards all see the same."""
    _output(mounts[0][0], racer, "make", mounts[0][1])
    racers = [subprocess.Popen(runner(racer, pool, f"node{i}", str(EPOCHS)), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
              for i, (runner, pool) in enumerate(mounts * 2)]
    try:
        winners, lost = _results(racers)
    finally:
        for process in racers:
            if process.poll() is None:
                process.kill()
                process.wait()
    # An epoch whose claimer was overtaken before it looked is won by nobody; a race that nobody loses
    # shows nothing.
    assert max(winners) <= EPOCHS and len(winners) > EPOCHS // 10, len(winners)
    assert lost > 0 and len(set(winners.values())) > 1
    for runner, pool in mounts:
        names = _output(runner, "ls", "-A", f"{pool}/vms/raced").split()
        assert f"owner.{EPOCHS}" in names and not [n for n in names if n.startswith(".tmp.")], names
        text = _output(runner, "cat", f"{pool}/vms/raced/owner.{EPOCHS}")
        if EPOCHS in winners:
            assert f"node = {winners[EPOCHS]}\n" in text
    return winners, lost
