"""A droverd that is played by the test, for the command: what it answers, and a terminal."""

import contextlib
import fcntl
import http.server
import json
import os
import pty
import select
import socket
import socketserver
import struct
import subprocess
import termios
import threading
import time

import pytest
from droverlab.paths import PROGRAMS

DROVER = PROGRAMS / "drover"
if not DROVER.is_file():
    DROVER = PROGRAMS / "src/cli/drover"
ID = "0123456789abcdef0123456789abcdef"
LIMIT_S = 60

# Exit statuses (src/base/error.h).
USAGE, DAEMON, NO_VM, NO_NODE, NOT_OWNER, REFUSED, DISK = 2, 3, 5, 6, 13, 15, 18
DEFINITION, NAME, REQUEST = 21, 22, 23
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


@pytest.fixture(name="droverd")
def fixture_droverd(tmp_path):
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
