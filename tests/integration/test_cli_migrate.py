"""What the command shows of a migration, against a droverd that is played by the test, and what
becomes of one that is interrupted."""

import json
import signal

import pytest
from clilab import (CANCELLED, DAEMON, DISK, ID, LIMIT_S, UNDECIDED, USAGE, Terminal, error_object,
                    fixture_droverd, run, start, wait_for)

FIXTURES = (fixture_droverd,)


def test_migrate_in_a_pipe_prints_plain_lines_and_a_summary(droverd):
    droverd.migration.step("prepare", sent=0)
    for round_ in range(1, 50):
        droverd.migration.step("rounds", round=round_)
    droverd.migration.finish()
    result = run(droverd.path, "migrate", "web1", "node2")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == ("web1 runs on node2: moved in 2.31 s, stood still 43 ms, "
                         "271 MB over the network")
    assert lines[0] == "prepare" and len(lines) < 5
    assert "\r" not in result.stdout and "\x1b" not in result.stdout


def test_migrate_with_json_prints_each_event_and_the_result(droverd):
    droverd.migration.step("prepare")
    droverd.migration.step("rounds")
    droverd.migration.finish()
    result = run(droverd.path, "migrate", "web1", "node2", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("phase") for line in lines] == ["prepare", "rounds", None]
    assert lines[-1]["result"]["report"]["downtime_ms"] == 43


def test_a_migration_that_fails_ends_with_its_error(droverd):
    droverd.migration.end("failed", **error_object("disk", DISK, "disk0 does not open on node2"))
    result = run(droverd.path, "migrate", "web1", "node2", "--json")
    last = json.loads(result.stdout.splitlines()[-1])
    assert result.returncode == DISK
    assert result.stderr == "drover: disk0 does not open on node2\n"
    assert last["error"]["kind"] == "disk" and last["result"]["state"] == "failed"


def test_an_undecided_migration_says_what_to_do(droverd):
    droverd.migration.end("undecided")
    result = run(droverd.path, "migrate", "web1", "node2")
    assert result.returncode == UNDECIDED
    assert "stays paused" in result.stderr and ID in result.stderr


def test_a_vm_on_another_node_is_followed_there(droverd):
    droverd.answers["POST /v1/migrations"] = {"id": ID, "node": "node3"}
    droverd.migration.finish()
    assert run(droverd.path, "migrate", "web1", "node2").returncode == 0
    assert droverd.sent(f"GET /v1/migrations/{ID}/events?after=0&wait_ms=25000&node=node3")


def test_droverd_that_dies_in_the_middle_leaves_a_way_to_look(droverd):
    droverd.migration.step("rounds")
    process = start(droverd.path, "migrate", "web1", "node2")
    assert process.stdout.readline().startswith("round 1")
    droverd.die()
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == DAEMON
    assert f"drover migration show {ID}" in errors and '"rounds"' in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_in_a_pipe_cancels(droverd, number):
    droverd.migration.step("rounds")
    process = start(droverd.path, "migrate", "web1", "node2")
    assert process.stdout.readline().startswith("round 1")
    process.send_signal(number)
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == CANCELLED
    assert len(droverd.sent(f"POST /v1/migrations/{ID}/cancel")) == 1
    assert "web1 runs on node1" in errors


def test_follow_leaves_the_migration_alone_when_interrupted(droverd):
    droverd.answers["GET /v1/migrations"] = {"migrations": [droverd.migration.info]}
    droverd.migration.step("rounds")
    process = start(droverd.path, "migration", "follow", ID[:6])
    assert process.stdout.readline().startswith("round 1")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGINT
    assert not droverd.sent(f"POST /v1/migrations/{ID}/cancel")


def test_a_terminal_gets_one_line_that_fits(droverd):
    droverd.migration.step("rounds")
    terminal = Terminal(droverd.path, "migrate", "web1", "node2", columns=40, TERM="dumb")
    terminal.read_until("25 %")
    droverd.migration.step("rounds", remaining=64 << 20)
    terminal.read_until("75 %")
    droverd.migration.finish()
    assert terminal.end() == 0
    assert "\x1b" not in terminal.seen
    before, last = terminal.seen.rstrip().rsplit("\r", 1)
    assert "\n" not in before
    assert all(len(part) < 40 for part in before.split("\r"))
    assert last.startswith("web1 runs on node2")


def test_ctrl_c_on_a_terminal_asks_and_no_goes_on(droverd):
    droverd.migration.step("rounds")
    terminal = Terminal(droverd.path, "migrate", "web1", "node2")
    terminal.read_until("25 %")
    terminal.type("\x03")
    terminal.read_until("cancel the migration? web1 goes on running on node1 [y/N] ")
    droverd.migration.step("rounds", remaining=64 << 20)
    terminal.type("n\n")
    wait_for(lambda: len(droverd.sent(f"GET /v1/migrations/{ID}/events?after=2")), "an event")
    droverd.migration.step("switch", remaining=0)
    terminal.read_until("switch")
    droverd.migration.finish()
    assert terminal.end() == 0
    assert not droverd.sent(f"POST /v1/migrations/{ID}/cancel")


@pytest.mark.parametrize("answer", ["y\n", "\x03"])
def test_ctrl_c_on_a_terminal_asks_and_yes_cancels(droverd, answer):
    droverd.migration.step("rounds")
    terminal = Terminal(droverd.path, "migrate", "web1", "node2")
    terminal.read_until("25 %")
    terminal.type("\x03")
    terminal.read_until("[y/N] ")
    assert not droverd.sent(f"POST /v1/migrations/{ID}/cancel")
    terminal.type(answer)
    assert terminal.end() == CANCELLED
    assert len(droverd.sent(f"POST /v1/migrations/{ID}/cancel")) == 1


def test_a_migration_that_ends_while_the_question_stands_needs_no_answer(droverd):
    droverd.migration.step("rounds")
    terminal = Terminal(droverd.path, "migrate", "web1", "node2")
    terminal.read_until("25 %")
    terminal.type("\x03")
    terminal.read_until("[y/N] ")
    droverd.migration.finish()
    assert terminal.end() == 0
    assert "web1 runs on node2" in terminal.seen


def test_receive_cancels_its_migration_when_it_is_ended(droverd):
    def receive(_query, _body):
        with droverd.migration.changed:
            droverd.migration.changed.wait_for(lambda: droverd.migration.ended, LIMIT_S)
        return 409, error_object("cancelled", CANCELLED, "cancelled on node2")

    droverd.answers[f"POST /v1/migrations/{ID}/receive"] = receive
    process = start(droverd.path, "receive", ID)
    wait_for(lambda: droverd.sent(f"POST /v1/migrations/{ID}/receive"), "the call")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (CANCELLED, "drover: cancelled on node2\n")


def test_what_cannot_be_an_id_is_said_to_be_none(droverd):
    droverd.answers["GET /v1/migrations"] = {"migrations": []}
    result = run(droverd.path, "migration", "show", "../x")
    assert result.returncode != 0 and 'no migration "../x"' in result.stderr, result.stderr


def test_cancel_says_what_it_cancels_and_what_is_ambiguous(droverd):
    other = {**droverd.migration.info, "id": ID[:8] + "f" * 24}
    droverd.answers["GET /v1/migrations"] = {"migrations": [droverd.migration.info, other]}
    result = run(droverd.path, "migration", "cancel", ID[:9])
    assert result.stdout.startswith("the move of web1 from node1 to node2 is being cancelled; ")
    result = run(droverd.path, "migration", "cancel", ID[:8])
    assert result.returncode == USAGE and "; give more of it" in result.stderr
    assert len(droverd.sent(f"POST /v1/migrations/{ID}/cancel")) == 1


def test_a_time_that_nobody_measured_is_not_shown_as_none(droverd):
    """The destination does not know when the guest stood still."""
    migration = {"id": ID, "vm": "web1", "from": "node2", "to": "node1", "state": "done",
                 "side": "destination", "started_ms": 1000, "ended_ms": 3000,
                 "report": {"total_ms": 2000, "downtime_ms": 0}}
    droverd.answers["GET /v1/migrations"] = {"migrations": [migration]}
    row = run(droverd.path, "migration", "ls").stdout.splitlines()[1]
    assert row.split()[-2:] == ["-", "done"], row
