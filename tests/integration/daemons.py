"""Starts droverd on directories of its own, with no namespace around it."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from droverlab.paths import PROGRAMS, QEMU

DROVERD = PROGRAMS / "src" / "daemon" / "droverd"
NOBODY = "65534:65534"
START_S = 60


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("droverd", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """A droverd with settings, state and sockets below one short directory."""

    def __init__(self, directory, port=0, qemu="10.0", extra=""):
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.run_dir, self.state = self.directory / "run", self.directory / "state"
        self.conf = self.directory / "drover.conf"
        self.process = None
        # The checkout may lie where the hypervisor's user cannot go (/root): droverd sees QEMU through a
        # mount of its own.
        self.qemu = self.directory / "qemu"
        self.qemu.mkdir(exist_ok=True)
        data = self.qemu / qemu
        self.conf.write_text(
            f"[node]\nstate={self.state}\nrun={self.run_dir}\nlisten=127.0.0.1:{port}\n"
            f"vm_user={NOBODY}\n[qemu]\nbinary={data}/bin/qemu-system-x86_64\n"
            f"img={data}/bin/qemu-img\ndata={data}/data\n{extra}")

    def droverd(self, *arguments):
        """The argument vector that becomes droverd."""
        return ["unshare", "--mount", "sh", "-c", 'mount -n --bind "$0" "$1" && shift && exec "$@"',
                QEMU, self.qemu, DROVERD, *arguments]

    def command(self, *arguments, **options):
        """Runs droverd to its end."""
        return subprocess.run(self.droverd(*arguments), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=START_S, check=False, **options)

    def start(self):
        """Starts it and waits until it says that it is ready, as systemd does."""
        notify = str(self.directory / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(notify)
            told.settimeout(START_S)
            with open(self.directory / "log", "ab") as log:
                self.process = subprocess.Popen(
                    self.droverd("--config", self.conf), stderr=log, stdin=subprocess.DEVNULL,
                    env={**os.environ, "NOTIFY_SOCKET": notify})
            try:
                assert told.recv(100) == b"READY=1"
            finally:
                os.unlink(notify)
        return self

    def end(self, how=signal.SIGTERM):
        """Ends it and returns its status."""
        if self.process is None:
            return None
        self.process.send_signal(how)
        status, self.process = self.process.wait(START_S), None
        return status

    def log(self):
        return (self.directory / "log").read_text()

    def connection(self):
        return UnixConnection(self.run_dir / "droverd.sock")

    def ask(self, method, path, body=None):
        """A request; body is bytes as they are, or something to be made JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = self.connection()
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()

    def error(self, method, path, body=None):
        """The kind and the message of the error that a request must give."""
        status, answer = self.ask(method, path, body)
        assert status >= 400, answer
        error = answer["error"]
        assert error["exit"] > 0 and error["message"] and "\n" not in error["message"]
        return error["kind"], error["message"]

    def get(self, path):
        status, answer = self.ask("GET", path)
        assert status == 200, answer
        return answer


@pytest.fixture(name="directory")
def fixture_directory():
    """Short: paths of sockets are bounded."""
    path = Path(tempfile.mkdtemp(prefix="dd", dir="/tmp"))
    # The hypervisor's user has to pass through it.
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(name="new_daemon")
def fixture_new_daemon(directory):
    """new_daemon(NAME, …) makes one; all that were started are ended."""
    made = []

    def make(name="n1", **options):
        made.append(Daemon(directory / name, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end(signal.SIGKILL)


@pytest.fixture(name="daemon")
def fixture_daemon(new_daemon):
    return new_daemon().start()


@pytest.fixture(name="node")
def fixture_node(new_daemon, directory):
    """The first node of a cluster."""
    daemon = new_daemon().start()
    status, answer = daemon.ask("POST", "/v1/init", {"pool": str(directory / "pool"),
                                                    "name": "node1", "address": "127.0.0.1"})
    assert status == 200, answer
    return daemon


def wait_ready(daemon):
    deadline = time.monotonic() + 60
    while not daemon.get("/v1/status")["ready"]:
        assert time.monotonic() < deadline, daemon.log()
        time.sleep(0.05)
