"""The command against a droverd that is played by the test: what it sends, what it prints, and what
it ends with. No lab is needed."""

import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import socketserver
import struct
import subprocess
import termios
import threading
import time

import pytest
from droverlab.paths import PROGRAMS, ROOT

DROVER = PROGRAMS / "drover"
if not DROVER.is_file():
    DROVER = PROGRAMS / "src/cli/drover"
ID = "0123456789abcdef0123456789abcdef"
LIMIT_S = 20

# Exit statuses (src/base/error.h).
USAGE, DAEMON, NO_VM, NOT_OWNER, DISK, REQUEST = 2, 3, 5, 13, 18, 23
CANCELLED, UNDECIDED = 27, 28


def wait_for(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


class Migration:
    """A migration that the test moves along."""

    def __init__(self):
        self.changed = threading.Condition()
        self.events, self.ended = [], False
        self.info = {"id": ID, "vm": "web1", "from": "node1", "to": "node2", "state": "running",
                     "started_ms": 1, "error": None, "report": None}

    def step(self, phase, **more):
        with self.changed:
            self.events.append({"seq": len(self.events) + 1, "time_ms": 1, "phase": phase,
                                "sent": 64 << 20, "remaining": 192 << 20, "total": 256 << 20,
                                "rate_bps": 100000000, "dirty_rate_bps": 3000000, "round": 1,
                                "eta_ms": 2000, "message": None, **more})
            self.changed.notify_all()

    def end(self, state, **more):
        with self.changed:
            self.info.update(state=state, **more)
            self.ended = True
            self.changed.notify_all()

    def finish(self):
        self.end("done", report={"total_ms": 2310, "downtime_ms": 43, "wire_bytes": 271000000,
                                 "stream_bytes": 600000000, "rounds": 3})

    def answer_events(self, query):
        after, wait_ms = int(query["after"]), int(query["wait_ms"])
        with self.changed:
            self.changed.wait_for(lambda: self.ended or len(self.events) > after, wait_ms / 1000)
            return {"events": self.events[after:], "ended": self.ended}


class Droverd(socketserver.ThreadingUnixStreamServer):
    """Answers what `answers` holds: {"GET /v1/vms": object or function of query and body}."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path):
        super().__init__(str(path), Handler)
        self.path = path
        self.requests, self.connections = [], []
        self.migration = Migration()
        self.answers = {
            "GET /v1/status": {"node": "node1"},
            "GET /v1/vms/web1": {"name": "web1", "node": "node1", "state": "running"},
            "POST /v1/migrations": {"id": ID, "node": "node1"},
            f"GET /v1/migrations/{ID}/events": lambda q, b: self.migration.answer_events(q),
            f"GET /v1/migrations/{ID}": lambda q, b: self.migration.info,
            f"POST /v1/migrations/{ID}/cancel": lambda q, b: self.cancel(),
        }
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05},
                         daemon=True).start()

    def cancel(self):
        self.migration.end("cancelled", error={
            "kind": "cancelled", "exit": CANCELLED,
            "message": "the migration was cancelled; web1 runs on node1"})
        return {}

    def sent(self, start):
        """Bodies of the requests that begin with METHOD PATH."""
        return [body for line, body in self.requests if line.startswith(start)]

    def die(self):
        """As if killed: no more answers, and connections that end."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections.append(self.connection)

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_):
        pass

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(body) if body else None
        path, _, query = self.path.partition("?")
        self.server.requests.append((f"{self.command} {self.path}", body))
        answer = self.server.answers.get(f"{self.command} {path}")
        if callable(answer):
            answer = answer(dict(p.split("=") for p in query.split("&") if p), body)
        status = 200
        if answer is None:
            status, answer = 404, error_object("not-found", 7, f"no {path}")
        elif isinstance(answer, tuple):
            status, answer = answer
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = serve


def error_object(kind, code, message):
    return {"error": {"kind": kind, "exit": code, "message": message}}


@pytest.fixture
def droverd(tmp_path):
    server = Droverd(tmp_path / "s")
    yield server
    server.migration.end("done")
    server.die()


def environment(path, **more):
    return {**os.environ, "DROVER_SOCKET": str(path), "LC_ALL": "C.UTF-8", **more}


def run(path, *words, program=DROVER, **options):
    return subprocess.run([str(program), *words], env=environment(path), text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S,
                          **options)


def start(path, *words):
    return subprocess.Popen([str(DROVER), *words], env=environment(path), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, path, *words, columns=100, **env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(DROVER, [str(DROVER), *words],
                      environment(path, **{"TERM": "xterm", **env}))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        self.seen = ""

    def read_until(self, text):
        deadline = time.monotonic() + LIMIT_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.seen!r}"
            if select.select([self.fd], [], [], 0.5)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode()
                except OSError:
                    break
        assert text in self.seen

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """What it ended with."""
        with contextlib.suppress(OSError):
            while True:
                data = os.read(self.fd, 4096)
                if not data:
                    break
                self.seen += data.decode()
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def verbs():
    """Every verb, as --help lists them."""
    out = subprocess.run([str(DROVER), "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (\w+(?: \w+)?) {2,}[A-Z]", out, re.MULTILINE)


def test_help_lists_the_verbs_and_each_has_examples():
    assert {"migrate", "task new", "node ls", "console"} <= set(verbs())
    assert "receive" not in verbs()
    for verb in verbs():
        result = run("/nowhere", *verb.split(), "--help")
        assert result.returncode == 0, verb
        assert f"drover {verb}" in result.stdout
        assert re.search(rf"Examples:\n  drover {verb.split()[0]}", result.stdout), verb


def test_the_manual_names_every_verb_and_exit_status():
    manual = (ROOT / "man/drover.1").read_text()
    for verb in verbs():
        assert f".It Ic {verb}" in manual, verb
    kinds = re.findall(r'\[ERROR_\w+\] = \{"([\w-]+)"', (ROOT / "src/base/error.c").read_text())
    assert re.findall(r"^\.It (\d+) Ta ([\w-]+) Ta", manual, re.MULTILINE) == [
        (str(number), kind) for number, kind in enumerate(kinds, 1)]


def test_without_words_help_is_an_error():
    result = run("/nowhere")
    assert result.returncode == USAGE
    assert "migrate" in result.stderr and result.stdout == ""


@pytest.mark.parametrize("words, part", [
    (["migrat", "web1", "node2"], '"migrate"'),
    (["task", "sl"], '"task ls"'),
    (["node"], "ls, show, rm, add"),
    (["migrate", "web1"], "NODE is missing"),
    (["migrate", "web1", "node2", "node3"], "too many"),
    (["migrate", "web1", "node2", "--downtme", "5"], "--downtime"),
    (["migrate", "web1", "node2", "--downtime", "soon"], "downtime is a number"),
    (["migrate", "web1", "node2", "--bandwidth", "fast"], "800mbit"),
    (["create", "web1", "memroy=1G"], "memory="),
    (["create", "web1", "--disk", "a,sise=1"], "sise"),
    (["create", "web1", "--disk", "size=1G"], "file is missing"),
    (["create", "web1", "--disk", "a,size=0"], "out of range"),
    (["set", "web1"], "nothing to set"),
    (["task", "new", "migrate", "web1"], "NODE is missing"),
    (["task", "new", "sh", "-c", "reboot"], '"sh"'),
    (["task", "new", "rm", "web1"], "--yes"),
    (["task", "new", "--at", "tomorrow", "stop", "web1"], "02:03"),
    (["init"], "--pool"),
    (["join", "10.0.0.1"], "--token"),
    (["ls", "x" * 5000], "too many"),
])
def test_usage_errors_name_what_is_wrong(words, part):
    plain, as_json = run("/nowhere", *words), run("/nowhere", "--json", *words)
    assert plain.returncode == as_json.returncode == USAGE
    assert plain.stderr.startswith("drover: ") and plain.stderr.count("\n") == 1
    assert part in plain.stderr
    assert plain.stdout == ""
    error = json.loads(as_json.stdout)["error"]
    assert error["kind"] == "usage" and error["exit"] == USAGE and part in error["message"]


@pytest.mark.parametrize("words", [
    ["status"], ["ls"], ["node", "ls"], ["node", "rm", "node2", "--yes"], ["start", "web1"],
    ["stop", "web1"], ["rm", "web1", "--yes"], ["migrate", "web1", "node2"],
    ["migration", "show", ID], ["task", "ls"], ["task", "new", "stop", "web1"],
    ["console", "web1"], ["receive", ID], ["init", "--pool", "/pool"]])
def test_without_droverd_all_verbs_say_so(tmp_path, words):
    result = run(tmp_path / "none", *words, "--json")
    assert result.returncode == DAEMON
    assert json.loads(result.stdout)["error"]["kind"] == "daemon"
    assert "does not answer" in result.stderr


def test_socket_option_counts_more_than_the_environment(droverd, tmp_path):
    assert run(tmp_path / "none", "status", "--socket", str(droverd.path)).returncode == 0


@pytest.mark.parametrize("words", [
    ["migrate", "web1", "node2", "--downtime", "50", "--bandwidth", "800mbit", "--detach"],
    ["migrate", "--node=node2", "--vm=web1", "--downtime=50", "--bandwidth=800mbit", "--detach"],
    ["migrate", "jname=web1", "node=node2", "downtime=50", "bandwidth=800mbit", "detach=1"]])
def test_all_spellings_send_the_same(droverd, words):
    result = run(droverd.path, *words)
    assert (result.returncode, result.stdout) == (0, ID + "\n")
    assert droverd.sent("POST /v1/migrations") == [{
        "vm": "web1", "node": "node2",
        "options": {"downtime_ms": 50, "bandwidth": 100000000, "timeout_ms": 0, "reconnect_s": 0,
                    "postcopy": 0, "pause": False}}]


def test_links_are_verbs_in_cbsds_spelling(droverd, tmp_path):
    droverd.answers["POST /v1/vms"] = {"name": "web1"}
    for link, words, request in [
            ("bmigrate", ["jname=web1", "node=node2", "detach=1"], "POST /v1/migrations"),
            ("bls", [], "GET /v1/vms"), ("bstart", ["jname=web1"], "POST /v1/vms/web1/start"),
            ("bstop", ["jname=web1"], "POST /v1/vms/web1/stop"),
            ("bcreate", ["jname=web1", "vm_ram=1g", "vm_cpus=2", "imgsize=10g"], "POST /v1/vms"),
            ("brename", ["jname=web1", "new=www"], "POST /v1/vms/web1/rename")]:
        (tmp_path / link).symlink_to(DROVER)
        run(droverd.path, *words, program=tmp_path / link)
        assert droverd.sent(request), link
    assert droverd.sent("POST /v1/vms")[-2] == {
        "name": "web1", "set": {"memory": "1g", "cpus": "2"},
        "disks": [{"file": "disk0.qcow2", "size": 10 << 30}], "nics": []}


def test_create_sends_disks_and_nics_as_given(droverd):
    droverd.answers["POST /v1/vms"] = {"name": "web1"}
    result = run(droverd.path, "create", "web1", "--disk",
                 "disk0.qcow2,backing=images/debian.qcow2,format=qcow2", "--disk", "/srv/b.raw",
                 "--nic", "bridge=br0,mac=52:54:00:00:00:01", "--append", "root=/dev/vda quiet")
    assert result.returncode == 0, result.stderr
    assert droverd.sent("POST /v1/vms") == [{
        "name": "web1", "set": {"append": "root=/dev/vda quiet"},
        "disks": [{"file": "disk0.qcow2", "backing": "images/debian.qcow2", "format": "qcow2"},
                  {"file": "/srv/b.raw"}],
        "nics": [{"bridge": "br0", "mac": "52:54:00:00:00:01"}]}]


def test_set_removes_a_key_that_is_given_no_value(droverd):
    droverd.answers["PATCH /v1/vms/web1"] = {"running": True}
    result = run(droverd.path, "set", "web1", "memory=2G", "disk0.cache=none", "vnc=")
    assert droverd.sent("PATCH")[0] == {
        "set": {"memory": "2G", "disk0.cache": "none", "vnc": None}}
    assert "started again" in result.stdout


def test_names_are_escaped_in_paths(droverd):
    run(droverd.path, "show", "../status?x=1&node=node2")
    assert droverd.requests[0][0] == "GET /v1/vms/..%2Fstatus%3Fx%3D1%26node%3Dnode2"


def test_an_error_of_droverd_is_the_exit_status(droverd):
    droverd.answers["GET /v1/vms/web9"] = (404, error_object("no-vm", NO_VM, "no VM named web9"))
    result = run(droverd.path, "show", "web9", "--json")
    assert result.returncode == NO_VM
    assert result.stderr == "drover: no VM named web9\n"
    assert json.loads(result.stdout)["error"]["kind"] == "no-vm"


@pytest.mark.parametrize("answer", [
    b"", b"<html>", b'{"vms": ', b"[" * 100000, b'"text"', b"\xff\xfe", b"null"])
def test_an_answer_that_cannot_be_read_is_an_error(droverd, answer):
    droverd.answers["GET /v1/vms"] = answer
    result = run(droverd.path, "ls")
    assert result.returncode == REQUEST, result.stderr
    assert result.stderr.startswith("drover: ")


@pytest.mark.parametrize("answer", [
    {}, {"vms": 7}, {"vms": [1, {}, {"name": 5, "memory": "x", "operation": ["a"]}]}])
def test_an_answer_with_odd_members_is_shown_as_far_as_it_goes(droverd, answer):
    droverd.answers["GET /v1/vms"] = answer
    assert run(droverd.path, "ls").returncode == 0


def test_ls_is_aligned_and_says_undecided_loudly(droverd):
    droverd.answers["GET /v1/vms"] = {"vms": [
        {"name": "web1", "node": "node1", "state": "paused", "memory": 1 << 30, "cpus": 2,
         "operation": None},
        {"name": "a-long-name", "node": None, "state": "stopped", "memory": 512 << 20,
         "cpus": 1, "operation": "being moved to node2"}]}
    droverd.migration.info["state"] = "undecided"
    droverd.answers["GET /v1/migrations"] = {"migrations": [droverd.migration.info]}
    out = run(droverd.path, "ls").stdout
    assert out.splitlines()[:3] == [
        "VM           NODE   STATE       MEMORY  CPUS  OPERATION",
        "web1         node1  UNDECIDED    1 GiB     2",
        "a-long-name  -      stopped    512 MiB     1  being moved to node2"]
    assert f"drover migration show {ID}" in out


def test_text_from_elsewhere_cannot_drive_the_terminal(droverd):
    droverd.answers["GET /v1/tasks/1/log"] = {"text": "a\x1b[2Jb\nc", "offset": 7, "ended": True}
    terminal = Terminal(droverd.path, "task", "log", "1")
    assert terminal.end() == 0
    assert terminal.seen == "a?[2Jb\r\nc"


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


@pytest.mark.parametrize("answer, claims", [("n\n", False), ("yes\n", True)])
def test_recover_asks_whether_the_node_is_off(droverd, answer, claims):
    """After it has looked whether it may: what is refused needs no question."""
    droverd.answers["POST /v1/vms/web1/recover"] = {"from": "node1", "node": "node2", "epoch": 4}
    droverd.answers["POST /v1/vms/web1/start"] = {"state": "running"}
    terminal = Terminal(droverd.path, "recover", "web1", "--start", columns=200)
    terminal.read_until("Is node1 off, and is web1 to be taken over? [y/N] ")
    assert droverd.sent("POST /v1/vms/web1/recover") == [{"fenced": False, "check": True}]
    assert not droverd.sent("POST /v1/vms/web1/start")
    terminal.type(answer)
    assert terminal.end() == (0 if claims else 27)
    assert [body["check"] for body in droverd.sent("POST /v1/vms/web1/recover")] == (
        [True, False] if claims else [True])
    assert len(droverd.sent("POST /v1/vms/web1/start")) == claims


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


def test_rm_asks_on_a_terminal(droverd):
    droverd.answers["DELETE /v1/vms/web1"] = {}
    terminal = Terminal(droverd.path, "rm", "web1")
    terminal.read_until("[y/N] ")
    terminal.type("n\n")
    assert terminal.end() == CANCELLED
    assert not droverd.sent("DELETE")
    terminal = Terminal(droverd.path, "rm", "web1")
    terminal.read_until("[y/N] ")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert droverd.sent("DELETE")


def test_rm_in_a_pipe_needs_yes(droverd):
    droverd.answers["DELETE /v1/vms/web1"] = {}
    result = run(droverd.path, "rm", "web1")
    assert result.returncode == USAGE and "--yes" in result.stderr
    assert not droverd.sent("DELETE")
    assert run(droverd.path, "rm", "web1", "--yes").returncode == 0


def test_task_new_sends_words_and_no_shell_line(droverd):
    droverd.answers["POST /v1/tasks"] = {"id": 12}
    result = run(droverd.path, "task", "new", "--after", "3", "--exclusive", "--node", "node2",
                 "bmigrate", "jname=web1", "node=node3", "--pause")
    assert (result.returncode, result.stdout) == (0, "12\n")
    assert droverd.requests[0] == ("POST /v1/tasks?node=node2", {
        "argv": ["migrate", "jname=web1", "node=node3", "--pause"], "after": 3, "at_ms": 0,
        "exclusive": True})


def test_task_log_follows_to_the_end(droverd):
    parts = iter([{"text": "one ", "offset": 4, "ended": False},
                  {"text": "two\n", "offset": 8, "ended": False},
                  {"text": "", "offset": 8, "ended": True}])
    droverd.answers["GET /v1/tasks/1/log"] = lambda query, body: next(parts)
    assert run(droverd.path, "task", "log", "1", "--follow").stdout == "one two\n"
    assert [line for line, _ in droverd.requests][1].startswith("GET /v1/tasks/1/log?offset=4&")


@pytest.fixture
def console(droverd, tmp_path):
    """A guest's console that says "login: "; gives what is typed into it."""
    typed = bytearray()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "console"))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.sendall(b"login: ")
            while data := connection.recv(100):
                typed.extend(data)

    threading.Thread(target=serve, daemon=True).start()
    droverd.answers["GET /v1/vms/web1/console"] = {"path": str(tmp_path / "console")}
    yield typed
    listener.close()


@pytest.mark.parametrize("escape, typed", [("\x1d", b"root\r~x~"), ("\r~.", b"root\r~x~\r")])
def test_console_passes_on_what_is_typed_and_restores_the_terminal(
        droverd, console, escape, typed):
    # What a terminal is like that nobody has changed.
    fresh = pty.openpty()
    before = termios.tcgetattr(fresh[1])
    terminal = Terminal(droverd.path, "console", "web1")
    terminal.read_until("login: ")
    assert termios.tcgetattr(terminal.fd) != before
    terminal.type("root\r~x~")
    wait_for(lambda: b"x~" in console, "the text")
    terminal.type(escape)
    wait_for(lambda: os.waitid(os.P_PID, terminal.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT),
             "the end")
    assert termios.tcgetattr(terminal.fd) == before
    assert terminal.end() == 0
    wait_for(lambda: bytes(console) == typed, "all that was typed")
    for descriptor in fresh:
        os.close(descriptor)


def test_console_of_a_vm_elsewhere_says_where(droverd):
    droverd.answers["GET /v1/vms/web1"]["node"] = "node2"
    result = run(droverd.path, "console", "web1")
    assert result.returncode == NOT_OWNER
    assert "ssh node2 drover console web1" in result.stderr


def test_node_mode_add_makes_a_token_or_uses_one(droverd):
    droverd.answers["POST /v1/tokens"] = {"token": "T", "command": "drover join A --token T"}
    droverd.answers["POST /v1/join"] = {"node": "node2", "cluster": "c"}
    result = run(droverd.path, "node", "mode=add", "node=10.0.0.2")
    assert "drover join A --token T" in result.stdout and "10.0.0.2" in result.stdout
    run(droverd.path, "node", "mode=add", "node=10.0.0.1", "token=T", "pool=/mnt/p")
    assert droverd.sent("POST /v1/join") == [
        {"address": "10.0.0.1", "token": "T", "pool": "/mnt/p"}]
