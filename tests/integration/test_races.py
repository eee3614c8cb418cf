"""What two do to one VM at the same time, and a handover that nobody can decide for a while.

Each test ends with exactly one copy, the guest's check of its own memory, and nothing left over.
"""

import json
import os
import re
import subprocess

import pytest
from droverlab.lab import SHARED

from vms import (SharedGuest, assert_nothing_is_left, drover, error_of, guest_client, migrations,
                 wait_for)


# How long what was announced is waited for in its test; more than the source takes to die.
SILENCE_MS = 4000


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("two", nodes=2)


@pytest.fixture
def faults(two, tmp_path):
    """faults(NODE, POINT) holds droverd there at POINT; returns the file that lets it go on."""
    restarted = []

    def arm(node, point):
        gate = tmp_path / f"go-{node.name}"
        node.stop_daemon()
        node.start_daemon(DROVER_FAULT=f"{point}:file={gate}")
        restarted.append(node)
        return gate

    yield arm
    for node in restarted:
        node.stop_daemon()
        node.start_daemon()


@pytest.fixture(scope="module")
def shared(two):
    return SharedGuest(two, "vm")


@pytest.fixture
def guest(shared, faults):  # pylint: disable=unused-argument
    yield shared.take()
    shared.rest()


def begin(node, *words):
    return node.popen("drover", *words, "--json", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, text=True)


def end(process):
    """(exit status, kind of the error or None)"""
    out, err = process.communicate(timeout=120)
    errors = [json.loads(line) for line in out.splitlines() if '"error": {' in line or '"error":{' in line]
    assert process.returncode == 0 or errors, (process.returncode, out, err)
    kinds = [d["error"]["kind"] for d in errors if d.get("error")]
    return process.returncode, kinds[-1] if kinds else None


def migration_of(node, guest):
    return next(iter(migrations(node, guest)), {})


def where(guest):
    _, (info,) = drover(guest.lab.nodes[0], "show", guest.name)
    return next(n for n in guest.lab.nodes if n.name == info["node"])


def assert_one_copy_and_nothing_left(guest, node=None):
    node = node or where(guest)
    guest.assert_runs_only_on(node)
    for other in guest.lab.nodes:
        assert_nothing_is_left(other, guest.pids(other))


@pytest.mark.parametrize("side, point, done", [
    (0, "migrate.src.before_prepare", False), (1, "migrate.dst.before_start", False),
    (1, "migrate.dst.before_listen", False), (0, "migrate.src.before_stream", False),
    (0, "migrate.src.during_rounds", False), (0, "migrate.src.before_handover", True),
    (1, "migrate.dst.before_claim", True), (1, "migrate.dst.after_claim", True),
    (0, "migrate.src.before_end", True)])
def test_a_move_cancelled_at_a_step_stays_or_arrives_whole(two, guest, faults, side, point, done):
    """Until the handover it stays; from then on it is too late, and it arrives."""
    node1, node2 = two.nodes
    gate = faults(two.nodes[side], point)
    move = begin(node1, "migrate", guest.name, "node2")
    step = {True: ("handover", "end"), False: ("prepare", "stream")}[done]
    found = wait_for(lambda: (m := migration_of(node1, guest)).get("step") in step and m, "the step", 60)
    status, documents = drover(node1, "migration", "cancel", found["id"], check=False)
    assert (error_of(documents)["kind"] == "refused") if done else status == 0, documents
    gate.touch()
    assert end(move) == ((0, None) if done else (27, "cancelled"))
    assert_one_copy_and_nothing_left(guest, node2 if done else node1)


def test_nothing_else_is_done_to_a_vm_that_moves(two, guest, faults):
    """Asked on either node, while the guest stands still between the two."""
    node1, node2 = two.nodes
    gate = faults(node2, "migrate.dst.before_claim")
    # What is asked meanwhile may take a while.
    move = begin(node1, "migrate", guest.name, "node2", "--reconnect", "300")
    wait_for(lambda: migration_of(node1, guest).get("step") == "handover", "the handover", 60)
    for node in two.nodes:
        for verb, *options in (["start"], ["stop", "--timeout", "0"], ["rm", "--yes"],
                               ["rename", "other"], ["set", "memory=256M"], ["migrate", "node1"],
                               ["migrate", "node2"], ["recover", "--yes", "--fenced"]):
            status, documents = drover(node, verb, guest.name, *options, check=False)
            assert status != 0, (node.name, verb, documents)
            assert error_of(documents)["kind"] in (
                "busy", "running", "not-owner", "refused", "already-there"), (node.name, verb, documents)
    gate.touch()
    assert end(move) == (0, None)
    assert_one_copy_and_nothing_left(guest, node2)


@pytest.mark.parametrize("other", ["stop", "start", "migrate"])
def test_two_verbs_at_the_same_moment_are_one_after_the_other(two, guest, other):
    """Whoever comes first is done; the other is done after it, or refused."""
    node1, node2 = two.nodes
    rounds = int(os.environ.get("DROVER_RACE_ROUNDS", "100")) // 50
    for i in range(rounds):
        here = where(guest)
        there = node2 if here.name == "node1" else node1
        words = {"stop": ["stop", guest.name, "--timeout", "0"], "start": ["start", guest.name],
                 "migrate": ["migrate", guest.name, there.name]}[other]
        racers = [begin(here, "migrate", guest.name, there.name), begin(there, *words)]
        results = [end(r) for r in (racers if i % 2 else racers[::-1])]
        kinds = {kind for _, kind in results if kind}
        assert kinds <= {"busy", "not-owner", "not-running", "running", "already-there", "refused"}, results
        wait_for(lambda: sum(len(guest.pids(n)) for n in two.nodes) <= 1, "one copy at most")
        _, (info,) = drover(node1, "show", guest.name)
        if info["state"] == "stopped":
            assert other == "stop" and not any(guest.pids(n) for n in two.nodes), info
            drover(node1, "start", guest.name)
            guest_client.wait_ready(two.guests, guest.address, 60)
            guest.ask("fill", 8, "text")
    assert_one_copy_and_nothing_left(guest)


def test_what_was_announced_and_does_not_come_is_not_waited_for_for_ever(two, guest):
    """For two minutes, which are less here."""
    node1, node2 = two.nodes
    for node, fault in ((node1, "migrate.src.before_task:kill"),
                        (node2, f"migrate.dst.before_give_up:limit={SILENCE_MS}")):
        node.stop_daemon()
        node.start_daemon(DROVER_FAULT=fault)
    assert begin(node1, "migrate", guest.name, "node2").wait(60) != 0
    wait_for(lambda: migration_of(node2, guest)["state"] == "failed", "the end of the waiting", 60)
    ended = migration_of(node2, guest)
    assert ended["ended_ms"] - ended["started_ms"] >= SILENCE_MS, ended
    node1.start_daemon()
    node2.stop_daemon()
    node2.start_daemon()
    assert begin(node1, "migrate", guest.name, "node2").wait(60) == 0
    assert_one_copy_and_nothing_left(guest, node2)


@pytest.mark.parametrize("point", ["vm.start.before_claim", "vm.start.after_claim"])
def test_a_start_that_its_droverd_did_not_survive_leaves_a_vm_that_can_be_started(two, guest, point):
    node1, node2 = two.nodes
    drover(node1, "stop", guest.name, "--timeout", "0")
    node2.stop_daemon()
    node2.start_daemon(DROVER_FAULT=f"{point}:kill")
    assert drover(node2, "start", guest.name, check=False)[0] != 0
    wait_for(lambda: node2.daemon_pid is None, "the death of node2's droverd")
    assert len(guest.pids(node2)) == 1
    node2.start_daemon()
    wait_for(lambda: not guest.pids(node2), "the end of what was never let run")
    assert_nothing_is_left(node2)
    drover(node1, "start", guest.name)
    guest_client.wait_ready(two.guests, guest.address, 60)
    guest.ask("fill", 8, "text")
    assert_one_copy_and_nothing_left(guest, node1)


def test_a_second_droverd_on_one_state_directory_ends_with_one_sentence(two):
    node1, _ = two.nodes
    pid = node1.daemon_pid
    second = node1.run("droverd", "--config", f"{SHARED}/drover.conf", check=False, timeout=30)
    assert second.returncode == 12, second
    said = second.stderr.strip()
    assert "\n" not in said and f"process {pid}" in said and "runs already" in said, said
    assert node1.daemon_pid == pid and drover(node1, "status")[1][0]["ready"]


def undecided(node):
    text = node.run("curl", "-s", "--unix-socket", "/run/drover/droverd.sock",
                    "http://droverd/metrics").stdout
    return re.search(r'drover_migrations\{state="undecided"\} (\d+)', text).group(1) == "1"


@pytest.mark.parametrize("side, point, back, runs_on", [
    (0, "migrate.src.before_handover", "pool", 0), (1, "migrate.dst.after_resume", "link", 1),
    (1, "migrate.dst.after_resume", "pool", 1)],
    ids=["not-told-pool", "runs-there-link", "runs-there-pool"])
def test_undecided_is_shown_and_ends_when_pool_or_peer_is_back(two, guest, faults, side, point, back,
                                                              runs_on):
    """The link is cut and the source's pool is gone while the handover is on its way."""
    node1, _ = two.nodes
    link = ["ip", "-n", node1.namespace, "link", "set", "mig0"]
    gate = faults(two.nodes[side], point)
    move = begin(node1, "migrate", guest.name, "node2", "--reconnect", "5")
    found = wait_for(lambda: (m := migration_of(node1, guest)).get("step") == "handover" and m,
                     "the handover", 60)
    if side == 1:
        wait_for(lambda: drover(two.nodes[1], "show", guest.name)[1][0]["node"] == "node2",
                 "the claim")
    subprocess.run([*link, "down"], check=True)
    covered, size = f"{SHARED}/pool", node1.log.stat().st_size
    node1.run("mount", "-t", "tmpfs", "none", covered)
    try:
        gate.touch()
        wait_for(lambda: undecided(node1), "an undecided migration", 120)
        assert f"{guest.name} is UNDECIDED" in node1.log.read_text()[size:]
        _, (shown,) = drover(node1, "migration", "show", found["id"])
        assert shown["state"] == "undecided", shown
        for words in (["migration", "show", found["id"]], ["migration", "ls"], ["ls"]):
            said = node1.run("drover", *words, check=False)
            assert "undecided" in (said.stdout + said.stderr).lower(), (words, said)
        if back == "link":
            subprocess.run([*link, "up"], check=True)
        else:
            node1.run("umount", covered)
            covered = None
        wait_for(lambda: not undecided(node1), "the end of it", 60)
    finally:
        subprocess.run([*link, "up"], check=True)
        if covered:
            node1.run("umount", covered)
    status, kind = end(move)
    # That the other has claimed does not tell whether it runs there: only its word does.
    silent = runs_on == 1 and back == "pool"
    assert (status == 0) == (runs_on == 1 and not silent)
    assert not silent or kind == "unreachable", kind
    subprocess.run([*link, "up"], check=True)
    assert_one_copy_and_nothing_left(guest, two.nodes[runs_on])
