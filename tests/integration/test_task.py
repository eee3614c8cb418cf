"""Tasks with the real daemons: kept, run, refused, cancelled, and never shown as running when the
droverd that ran them was killed."""

import json
import re
import signal
import time

import pytest
from droverlab.lab import SHARED
from vms import Guest, drover, error_of, wait_for

NOT_RUNNING, REFUSED, CANCELLED = 9, 15, 27


@pytest.fixture(scope="module")
def nodes(make_lab, tiny_guest):
    return make_lab("tasks", nodes=2).nodes


@pytest.fixture(scope="module")
def off(nodes):
    """A VM that does not run: suspending it fails."""
    drover(nodes[0], "create", "off", "--memory", "16M")
    return "off"


@pytest.fixture
def guest(nodes):
    """A guest on node1, wherever the test leaves it."""
    guest = Guest(nodes[0].lab, nodes[0], f"t{time.monotonic_ns()}")
    yield guest
    _, (info,) = drover(nodes[0], "show", guest.name)
    on = next((node for node in nodes if node.name == info["node"]), nodes[0])
    guest.remove(on)


def add(node, *words):
    """What follows the verb is the task's: --json stands in front."""
    return json.loads(node.run("drover", "--json", "task", "new", *words).stdout)["id"]


def show(node, task, *more):
    _, (answer,) = drover(node, "task", "show", task, *more)
    return answer


def wait_for_state(node, task, state):
    wait_for(lambda: show(node, task)["state"] == state, f"task {task}: {state}")


def output(node, task, *more):
    return node.run("drover", "task", "log", task, "--follow", *more, timeout=120).stdout


def start_again(node):
    node.start_daemon()
    wait_for(lambda: drover(node, "task", "ls", check=False)[0] == 0, "the queue's start")


def slow_move(nodes, guest):
    """A task of node1 that moves the guest for as long as the test wants; it has begun."""
    task = add(nodes[0], "migrate", guest.name, "node2", "--bandwidth", "1M")
    wait_for(lambda: "round" in node_log(nodes[0], task), "the move")
    return task


def node_log(node, task):
    return node.run("drover", "task", "log", task, check=False, timeout=60).stdout


def test_a_queued_move_is_made_and_its_output_kept(nodes, guest):
    task = add(nodes[0], "bmigrate", f"jname={guest.name}", "node=node2")
    assert f"{guest.name} runs on node2: moved in" in output(nodes[0], task)
    assert show(nodes[0], task)["state"] == "done"
    guest.assert_runs_only_on(nodes[1])


def test_another_nodes_queue_is_reached_and_knows_who_asked(nodes, guest):
    task = add(nodes[1], "--node", "node1", "migrate", guest.name, "node2")
    assert "runs on node2" in output(nodes[1], task, "--node", "node1")
    assert show(nodes[1], task, "--node", "node1")["from"] == "node2"
    guest.assert_runs_only_on(nodes[1])


def test_another_node_cannot_queue_what_it_may_not_do(nodes, guest):
    result = nodes[1].run("drover", "task", "new", "--node", "node1", "rm", guest.name, "--yes",
                          check=False)
    assert result.returncode == REFUSED, result.stderr
    guest.assert_runs_only_on(nodes[0])


@pytest.mark.parametrize("words", [
    ["start", "no-such-vm"], ["migrate", "off", "node9"], ["start", "off", "--node", "node9"],
    ["migrate", "no-such-vm", "node2", "--bandwidth", "fast"],
    ["set", "off", "machine=nosuch"]])
def test_what_cannot_work_is_refused_in_the_verbs_own_words(nodes, off, words):
    now = nodes[1].run("drover", *words, check=False)
    later = nodes[1].run("drover", "task", "new", "--at", "+60", *words, check=False)
    assert later.returncode == now.returncode > 0, later.stderr
    assert later.stderr.replace("the task: ", "") == now.stderr


def test_a_part_of_a_migration_is_not_queued_by_people(nodes):
    for elsewhere in ([], ["--node", "node2"]):
        result = nodes[0].run("drover", "task", "new", *elsewhere, "receive", "x", check=False)
        assert result.returncode == REFUSED and "for nodes to ask" in result.stderr, result.stderr
    status, answer = nodes[0].api("POST", "/v1/tasks", {"argv": ["receive", "x"]})
    assert status >= 400 and "receive" not in answer["error"]["message"].split("these can:")[1]


def test_a_failed_task_has_its_exit_status_and_skips_what_is_behind(nodes, off):
    failed = add(nodes[0], "--at", "+3", "suspend", off)
    behind = add(nodes[0], "--after", failed, "stop", "no-such-vm")
    wait_for_state(nodes[0], behind, "skipped")
    task = show(nodes[0], failed)
    assert (task["state"], task["exit"]) == ("failed", NOT_RUNNING)
    assert "off does not run" in output(nodes[0], failed)


def test_queued_tasks_survive_a_killed_droverd(nodes, off):
    later = add(nodes[0], "--at", "+3", "suspend", off)
    tomorrow = add(nodes[0], "--at", "+86400", "suspend", off)
    nodes[0].stop_daemon(signal.SIGKILL)
    start_again(nodes[0])
    wait_for(lambda: show(nodes[0], later)["state"] == "failed", "the task")
    assert show(nodes[0], tomorrow)["state"] == "waiting"
    drover(nodes[0], "task", "cancel", tomorrow)
    assert show(nodes[0], tomorrow)["state"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_task_whose_droverd_goes_is_interrupted(nodes, guest, number):
    task = slow_move(nodes, guest)
    nodes[0].stop_daemon(number)
    start_again(nodes[0])
    assert show(nodes[0], task)["state"] == "interrupted"
    guest.assert_runs_only_on(nodes[0])


def test_cancelling_a_move_that_runs_as_a_task_cancels_the_move(nodes, guest):
    task = slow_move(nodes, guest)
    drover(nodes[0], "task", "cancel", task)
    assert f"{guest.name}" in output(nodes[0], task)
    shown = show(nodes[0], task)
    assert (shown["state"], shown["exit"]) == ("cancelled", CANCELLED)
    guest.assert_runs_only_on(nodes[0])


def test_flush_forgets_ended_tasks(nodes, off):
    task = add(nodes[0], "suspend", off)
    wait_for_state(nodes[0], task, "failed")
    _, (answer,) = drover(nodes[0], "task", "flush")
    assert answer["removed"] >= 1
    _, (answer,) = drover(nodes[0], "task", "ls")
    assert task not in [known["id"] for known in answer["tasks"]]


def test_a_move_whose_part_cannot_run_there_says_so_and_where_to_look(nodes, guest):
    node1, node2 = nodes
    conf = node2.path(f"{SHARED}/drover.conf")
    before = conf.read_text()
    node2.stop_daemon()
    conf.write_text(re.sub(r"(\[task\]\nbinary=).*", r"\1/nowhere/drover", before))
    try:
        start_again(node2)
        status, documents = drover(node1, "migrate", guest.name, "node2", check=False)
    finally:
        node2.stop_daemon()
        conf.write_text(before)
        start_again(node2)
    message = error_of(documents)["message"]
    assert status and "node2 did not begin to receive" in message, documents
    number = re.search(r"`drover task log (\d+) --node node2`", message)[1]
    assert "/nowhere/drover" in node1.run("drover", "task", "log", number, "--node", "node2").stdout
    guest.assert_runs_only_on(node1)
    drover(node1, "migrate", guest.name, "node2")
