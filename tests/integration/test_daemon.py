"""droverd as a program: its start and stop, its settings, and what it makes of bad requests.

Each runs on directories of its own, with no namespace around it."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from droverlab.paths import PROGRAMS, QEMU

DROVERD = PROGRAMS / "src" / "daemon" / "droverd"
NOBODY = "65534:65534"
START_S = 30
MIB = 1 << 20


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
        data = QEMU / qemu
        self.conf.write_text(
            f"[node]\nstate={self.state}\nrun={self.run_dir}\nlisten=127.0.0.1:{port}\n"
            f"vm_user={NOBODY}\n[qemu]\nbinary={data}/bin/qemu-system-x86_64\n"
            f"img={data}/bin/qemu-img\ndata={data}/data\n{extra}")

    def command(self, *arguments, **options):
        """Runs droverd to its end."""
        return subprocess.run([DROVERD, *arguments], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=START_S, check=False, **options)

    def start(self):
        """Starts it and waits until it says that it is ready, as systemd does."""
        notify = str(self.directory / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(notify)
            told.settimeout(START_S)
            with open(self.directory / "log", "ab") as log:
                self.process = subprocess.Popen(
                    [DROVERD, "--config", self.conf], stderr=log, stdin=subprocess.DEVNULL,
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


@pytest.fixture(name="shared", scope="module")
def fixture_shared():
    """One node for all the tests that change nothing on it."""
    path = Path(tempfile.mkdtemp(prefix="dd", dir="/tmp"))
    path.chmod(0o755)
    daemon = Daemon(path / "n1").start()
    daemon.ask("POST", "/v1/init", {"pool": str(path / "pool"), "name": "node1",
                                    "address": "127.0.0.1"})
    yield daemon
    daemon.end()
    shutil.rmtree(path)


def wait_ready(daemon):
    deadline = time.monotonic() + 20
    while not daemon.get("/v1/status")["ready"]:
        assert time.monotonic() < deadline, daemon.log()
        time.sleep(0.05)


# Start and stop.


def test_ready_is_said_when_requests_are_answered(daemon):
    status = daemon.get("/v1/status")
    assert status["node"] is None
    assert not status["ready"]
    assert "drover init" in status["problems"][-1]


def test_stop_is_clean_and_leaves_no_socket_behind(node):
    assert node.end() == 0
    assert not (node.run_dir / "droverd.sock").exists()
    assert "stops: Terminated" in node.log()


def test_stop_does_not_wait_for_an_idle_connection(node):
    connection = node.connection()
    connection.connect()
    begin = time.monotonic()
    assert node.end() == 0
    assert time.monotonic() - begin < 5
    connection.close()


def test_stop_ends_a_request_that_waits_for_output(node):
    _, task = node.ask("POST", "/v1/tasks", {"argv": ["stop", "web9"],
                                             "at_ms": int(time.time() + 3600) * 1000})
    path = f"/v1/tasks/{task['id']}/log?wait_ms=30000"
    asker = threading.Thread(target=lambda: node.ask("GET", path))
    requests = node.get("/metrics")
    asker.start()
    time.sleep(0.2)  # not for an event: whatever has come of the request, the stop is clean
    assert "drover_requests_total" in requests
    begin = time.monotonic()
    assert node.end() == 0
    assert time.monotonic() - begin < 10
    asker.join()


def test_second_droverd_of_a_state_directory_is_refused(daemon):
    second = daemon.command("--config", daemon.conf)
    assert second.returncode == 12
    assert f"process {daemon.process.pid}" in second.stderr
    assert daemon.get("/v1/status")["version"]


def test_socket_of_a_killed_droverd_is_taken_over(daemon):
    daemon.end(signal.SIGKILL)
    assert daemon.start().get("/v1/status")["version"]


def test_identity_outlives_a_restart(node):
    before = node.get("/v1/status")
    node.end()
    after = node.start().get("/v1/status")
    assert (after["node"], after["cluster"]) == (before["node"], before["cluster"])
    assert after["ready"], after["problems"]


def test_state_is_closed_to_others_and_run_is_open(daemon):
    assert daemon.state.stat().st_mode & 0o777 == 0o700
    assert daemon.run_dir.stat().st_mode & 0o777 == 0o755
    assert (daemon.run_dir / "droverd.sock").stat().st_mode & 0o777 == 0o660


def test_node_without_its_pool_serves_and_finds_it_later(node, directory):
    node.end()
    (directory / "pool").rename(directory / "away")
    status = node.start().get("/v1/status")
    assert not status["ready"] and str(directory / "pool") in status["problems"][0]
    assert node.error("GET", "/v1/vms")[0] == "pool"
    (directory / "away").rename(directory / "pool")
    wait_ready(node)
    assert node.get("/v1/vms") == {"vms": []}


def test_pool_that_goes_away_is_not_taken_for_a_removal(node, directory):
    (directory / "pool").rename(directory / "away")
    (directory / "pool").mkdir()
    kind, message = node.error("GET", "/v1/nodes")
    assert kind == "pool" and "mounted" in message
    assert "mounted" in node.get("/v1/status")["problems"][0]
    assert "\ndrover_pool_reachable 0\n" in node.get("/metrics")
    (directory / "pool").rmdir()
    (directory / "away").rename(directory / "pool")
    wait_ready(node)


def test_node_without_a_hypervisor_serves_and_says_so(new_daemon):
    daemon = new_daemon(qemu="none").start()
    status = daemon.get("/v1/status")
    assert status["hypervisor"] is None
    assert any("install QEMU" in problem for problem in status["problems"])


def test_forget_leaves_the_cluster(node):
    assert node.command("--config", node.conf, "--forget").returncode == 12
    node.end()
    assert node.command("--config", node.conf, "--forget").returncode == 0
    assert node.start().get("/v1/status")["node"] is None


# Arguments and settings.


@pytest.mark.parametrize("argument", ["--help", "--version", "--list-faults"])
def test_words_about_itself(argument, directory):
    run = Daemon(directory / "n1").command(argument)
    assert run.returncode == 0 and run.stdout and not run.stderr


@pytest.mark.parametrize("arguments", [["--nonsense"], ["start"], ["--config"]])
def test_wrong_arguments_are_refused(arguments, directory):
    run = Daemon(directory / "n1").command(*arguments)
    assert run.returncode == 2 and run.stderr and not run.stdout


def test_settings_that_are_not_there(directory):
    run = Daemon(directory / "n1").command("--config", directory / "nowhere")
    assert run.returncode == 7 and "nowhere" in run.stderr


@pytest.mark.parametrize("text,line,word", [
    ("[node]\nsate=/x\n", 2, "sate"),
    ("[nodes]\nstate=/x\n", 2, "nodes"),
    ("[node]\nstate=relative\n", 2, "absolute"),
    ("[node]\nrun=/" + "x" * 60 + "\n", 2, "40"),
    ("[node]\nlisten=:::\n", 2, "address"),
    ("[node]\nlisten=host:99999\n", 2, "port"),
    ("[node]\nstate=/x\nstate=/y\n", 3, "twice"),
    ("[qemu]\naccel=fast\n", 2, "kvm"),
    ("[qemu]\ndata=/x:y\n", 2, "absolute"),
    ("[wire]\nport_min=0\n", 2, "port_min"),
    ("[wire]\nport_max=7800x\n", 2, "port_max"),
    ("state=/x\n", 1, "state"),
    ("[node]\nnonsense\n", 2, ""),
])
def test_wrong_settings_name_their_line(directory, text, line, word):
    daemon = Daemon(directory / "n1")
    daemon.conf.write_text(text)
    run = daemon.command("--config", daemon.conf)
    assert run.returncode == 21
    assert f"line {line}" in run.stderr and word in run.stderr
    assert not daemon.state.exists()


@pytest.mark.parametrize("text,word", [
    ("[wire]\nport_min=7900\n", "7900"),
    ("[node]\nvm_user=nobody-of-this-name\n", "nobody-of-this-name"),
])
def test_settings_that_do_not_fit(directory, text, word):
    daemon = Daemon(directory / "n1")
    daemon.conf.write_text(text)
    run = daemon.command("--config", daemon.conf)
    assert run.returncode == 21 and word in run.stderr


def test_unknown_fault_point_is_refused(directory):
    daemon = Daemon(directory / "n1")
    run = daemon.command("--config", daemon.conf,
                         env={**os.environ, "DROVER_FAULT": "no.such.point:kill"})
    assert run.returncode == 2 and "no.such.point" in run.stderr


def test_port_that_is_taken_is_named(new_daemon, directory):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        daemon = new_daemon(port=other.getsockname()[1]).start()
        kind, message = daemon.error("POST", "/v1/init", {
            "pool": str(directory / "pool"), "name": "node1", "address": "127.0.0.1"})
        assert kind == "busy" and str(other.getsockname()[1]) in message
    # It is free now, and the node gets it without being asked again.
    wait_ready(daemon)


# Bad requests.


def deep(levels):
    return b'{"set":' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"


@pytest.mark.parametrize("body", [
    b"{", b'{"name":', b'{"name":"web1"', b"[]", b'"text"', b"null", b"{} {}", b"\xff\xfe",
    b'{"name":"a\\u0000b"}', b'{"name":1,"name":2}', deep(10000), b"[" * 10000,
], ids=["open", "cut", "unclosed", "array", "text", "null", "two", "no-utf8", "nul", "twice",
        "deep-10000", "deep-array"])
def test_json_that_cannot_be_read_is_refused(shared, body):
    kind, _ = shared.error("POST", "/v1/vms", body)
    assert kind == "request"
    assert shared.get("/v1/status")["ready"]


def test_body_of_100_mb_is_refused_and_not_kept(shared):
    before = Path(f"/proc/{shared.process.pid}/status").read_text()
    body = b'{"name":"' + b"x" * (100 * MIB) + b'"}'
    try:
        kind, message = shared.error("POST", "/v1/vms", body)
        assert kind == "request" and "4" in message
    except (ConnectionError, BrokenPipeError):
        pass  # it is cut off before all of it was sent
    after = Path(f"/proc/{shared.process.pid}/status").read_text()
    peak = [int(text.split("VmHWM:")[1].split()[0]) for text in (before, after)]
    assert peak[1] - peak[0] < 32 << 10
    assert shared.get("/v1/status")["ready"]


def test_body_that_never_comes_holds_up_nobody(shared):
    connection = shared.connection()
    connection.putrequest("POST", "/v1/vms")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    assert shared.get("/v1/status")["ready"]
    connection.close()
    assert shared.get("/v1/status")["ready"]


@pytest.mark.parametrize("method,path,body", [
    ("POST", "/v1/vms", {"name": "web1", "nmae": "web1"}),
    ("POST", "/v1/vms", {"name": "web1", "disks": [{"file": "a", "sise": 1}]}),
    ("POST", "/v1/vms", {"name": "web1", "nics": [{"bridge": "br0", "speed": "1"}]}),
    ("POST", "/v1/vms/web1/start", {"now": True}),
    ("POST", "/v1/migrations", {"vm": "web1", "node": "node2", "options": {"fast": True}}),
    ("POST", "/v1/tasks", {"argv": ["stop", "web1"], "when": 1}),
    ("POST", "/v1/tokens", {"x": 1}),
    ("DELETE", "/v1/vms/web1", {"force": True}),
])
def test_unknown_members_are_refused_by_name(shared, method, path, body):
    kind, message = shared.error(method, path, body)
    assert kind == "request"
    assert any(word in message for word in ("nmae", "sise", "speed", "now", "fast", "when", "x",
                                            "force"))


@pytest.mark.parametrize("method,path,body", [
    ("POST", "/v1/vms", {}),
    ("POST", "/v1/vms", {"name": 1}),
    ("POST", "/v1/vms", {"name": "web1", "set": []}),
    ("POST", "/v1/vms", {"name": "web1", "set": {"memory": 1}}),
    ("POST", "/v1/vms", {"name": "web1", "disks": {}}),
    ("POST", "/v1/vms", {"name": "web1", "disks": [1]}),
    ("POST", "/v1/vms", {"name": "web1", "disks": [{}]}),
    ("POST", "/v1/vms", {"name": "web1", "disks": [{"file": "a", "size": -1}]}),
    ("POST", "/v1/vms", {"name": "web1", "nics": [{"mac": "52:54:00:00:00:01"}]}),
    ("POST", "/v1/vms/web1/stop", {"timeout_ms": -1}),
    ("POST", "/v1/vms/web1/stop", {"timeout_ms": "60"}),
    ("PATCH", "/v1/vms/web1", {}),
    ("POST", "/v1/migrations", {"vm": "web1"}),
    ("GET", "/v1/migrations/x/events?wait_ms=30001", None),
    ("GET", "/v1/vms?all=2", None),
    ("GET", "/v1/vms?al=1", None),
    ("DELETE", "/v1/nodes/node9?froce=1", None),
    ("GET", "/v1/vms?all=%00", None),
    ("POST", "/v1/tasks", {"argv": "stop web1"}),
    ("POST", "/v1/join", {"address": "127.0.0.1"}),
])
def test_members_of_the_wrong_kind_are_refused(shared, method, path, body):
    assert shared.error(method, path, body)[0] == "request"


@pytest.mark.parametrize("method,path", [
    ("PUT", "/v1/vms"), ("DELETE", "/v1/vms"), ("POST", "/v1/status"), ("GET", "/v1/init"),
    ("PATCH", "/v1/migrations"), ("BREW", "/v1/vms"),
])
def test_wrong_methods_are_refused(shared, method, path):
    status, answer = shared.ask(method, path)
    assert status in (404, 405) and answer["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/vms", "/v1/vms/a/b/c/d", "/v1/../etc/passwd",
                                  "//v1/vms", "/v1/vms/", "/" + "x" * 5000])
def test_paths_that_lead_nowhere(shared, path):
    status, answer = shared.ask("GET", path)
    assert status >= 400 and answer["error"]["message"]


@pytest.mark.parametrize("name", ["..", "a%2Fb", "%2e%2e", ".hidden", "x" * 200, "a%00b", "a%0ab",
                                  "caf%C3%A9", "-x", "a%20b"])
def test_names_that_are_not_allowed(shared, name):
    for method, path in (("GET", f"/v1/vms/{name}"), ("DELETE", f"/v1/vms/{name}"),
                         ("POST", f"/v1/vms/{name}/start"), ("GET", f"/v1/nodes/{name}"),
                         ("GET", f"/v1/vms?node={name}")):
        kind, _ = shared.error(method, path)
        assert kind in ("name", "request", "not-found")


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 300, "a b", "é"])
def test_vms_cannot_be_made_with_bad_names(shared, name):
    assert shared.error("POST", "/v1/vms", {"name": name})[0] == "name"
    assert shared.get("/v1/vms") == {"vms": []}


@pytest.mark.parametrize("keys", [
    {"memory": "0"}, {"memory": "1000000000000000000"}, {"memory": "1"}, {"memory": "-1G"},
    {"memory": ""}, {"cpus": "0"}, {"cpus": "100000"}, {"colour": "red"}, {"machine": "q35"},
    {"cpu": "host"}, {"vnc": "everywhere"}, {"disk0.file": "../../etc/passwd"},
])
def test_definitions_that_are_not_allowed(shared, keys):
    kind, _ = shared.error("POST", "/v1/vms", {"name": "web1", "set": keys})
    assert kind in ("definition", "hypervisor")
    assert shared.get("/v1/vms") == {"vms": []}


def test_disk_that_is_not_there_leaves_no_vm(shared):
    kind, message = shared.error("POST", "/v1/vms", {
        "name": "web1", "set": {"memory": "64M"}, "disks": [{"file": "/nowhere/disk.raw",
                                                             "format": "raw"}]})
    assert kind == "disk" and "/nowhere/disk.raw" in message
    assert shared.get("/v1/vms") == {"vms": []}


@pytest.mark.parametrize("method,path,body,kind", [
    ("GET", "/v1/vms/web9", None, "no-vm"),
    ("POST", "/v1/vms/web9/start", None, "no-vm"),
    ("POST", "/v1/vms/web9/stop", None, "no-vm"),
    ("DELETE", "/v1/vms/web9", None, "no-vm"),
    ("PATCH", "/v1/vms/web9", {"set": {"memory": "1G"}}, "no-vm"),
    ("POST", "/v1/vms/web9/rename", {"to": "web8"}, "no-vm"),
    ("GET", "/v1/vms/web9/console", None, "no-vm"),
    ("POST", "/v1/migrations", {"vm": "web9", "node": "node2"}, "no-vm"),
    ("GET", "/v1/nodes/node9", None, "no-node"),
    ("DELETE", "/v1/nodes/node9", None, "no-node"),
    ("GET", "/v1/vms?node=node9", None, "no-node"),
    ("GET", "/v1/migrations/0123456789abcdef0123456789abcdef", None, "not-found"),
    ("POST", "/v1/migrations/0123456789abcdef0123456789abcdef/cancel", None, "not-found"),
    ("GET", "/v1/tasks/99", None, "not-found"),
    ("GET", "/v1/tasks/x", None, "not-found"),
    ("DELETE", "/v1/nodes/node1", None, "refused"),
    ("POST", "/v1/vms?node=node9", {"name": "web1"}, "refused"),
    ("POST", "/v1/migrations/0123456789abcdef0123456789abcdef/handover", None, "refused"),
    ("POST", "/v1/init", {"pool": "/tmp/other", "name": "x", "address": "127.0.0.1"}, "exists"),
    ("POST", "/v1/join", {"address": "127.0.0.1", "token": "nonsense"}, "exists"),
    ("POST", "/v1/init", {"pool": "relative"}, "usage"),
])
def test_each_failure_has_its_kind(shared, method, path, body, kind):
    assert shared.error(method, path, body)[0] == kind


def test_requests_before_the_cluster_is_made(daemon):
    for path in ("/v1/vms", "/v1/nodes", "/v1/migrations", "/v1/tasks", "/v1/ca"):
        assert daemon.error("GET", path)[0] == "no-cluster"
    assert daemon.error("POST", "/v1/tokens")[0] == "no-cluster"
    assert daemon.error("POST", "/v1/join", {"address": "127.0.0.1", "token": "x"})[0] == "token"


# The cluster.


def join(node, other, name, **members):
    token = node.ask("POST", "/v1/tokens")[1]["token"]
    return other.ask("POST", "/v1/join", {
        "address": node.get("/v1/status")["address"], "token": token, "name": name,
        "own_address": f"127.0.0.1:{free_port(other)}", **members})


def free_port(daemon):
    """The port that daemon was told to listen on."""
    return int(daemon.conf.read_text().split("listen=127.0.0.1:")[1].split()[0])


def unused_port():
    with socket.socket() as any_:
        any_.bind(("127.0.0.1", 0))
        return any_.getsockname()[1]


@pytest.fixture(name="pair")
def fixture_pair(new_daemon, directory):
    """Two nodes of one cluster."""
    ports = [unused_port(), unused_port()]
    first, second = (new_daemon(f"n{i}", port=port).start() for i, port in enumerate(ports))
    status, answer = first.ask("POST", "/v1/init", {
        "pool": str(directory / "pool"), "name": "node1", "address": f"127.0.0.1:{ports[0]}"})
    assert status == 200, answer
    status, answer = join(first, second, "node2")
    assert status == 200, answer
    return first, second


def test_two_nodes_see_each_other(pair):
    for daemon in pair:
        nodes = daemon.get("/v1/nodes")["nodes"]
        assert [node["name"] for node in nodes] == ["node1", "node2"]
        assert [node["state"] for node in nodes] == ["up", "up"]
        assert all(abs(node["clock_difference_ms"]) < 1000 for node in nodes)
    facts = pair[0].get("/v1/nodes/node2")["facts"]
    assert facts["host"]["cpus"] > 0 and facts["hypervisor"]


def test_request_is_passed_on_to_the_named_node(pair):
    assert pair[0].get("/v1/status?node=node2")["node"] == "node2"
    assert pair[0].get("/v1/status?node=node1")["node"] == "node1"


def test_node_that_is_down_is_listed_as_down(pair):
    pair[1].end(signal.SIGKILL)
    node = pair[0].get("/v1/nodes")["nodes"][1]
    assert node["state"] == "down" and "node2" in node["problem"]
    assert pair[0].error("GET", "/v1/vms?node=node2")[0] == "unreachable"


def test_token_is_good_once(pair, new_daemon):
    token = pair[0].ask("POST", "/v1/tokens")[1]["token"]
    body = {"address": pair[0].get("/v1/status")["address"], "token": token,
            "own_address": "127.0.0.1:1"}
    third = new_daemon("n3", port=unused_port()).start()
    assert third.error("POST", "/v1/join", {**body, "name": "node1"})[0] == "exists"
    assert third.ask("POST", "/v1/join", {**body, "name": "node3"})[0] == 200
    fourth = new_daemon("n4", port=unused_port()).start()
    assert fourth.error("POST", "/v1/join", {**body, "name": "node4"})[0] == "token"


def test_tokens_are_made_where_the_ca_is(pair):
    assert pair[1].error("POST", "/v1/tokens")[0] == "refused"


def test_pool_that_is_another_one_is_refused(pair, new_daemon, directory):
    third = new_daemon("n3", port=unused_port()).start()
    (directory / "other").mkdir()
    status, answer = join(pair[0], third, "node3", pool=str(directory / "other"))
    assert status != 200 and answer["error"]["kind"] == "pool"
    assert third.get("/v1/status")["node"] is None
    assert len(pair[0].get("/v1/nodes")["nodes"]) == 2


def test_removed_node_can_do_nothing_at_once(pair):
    first, second = pair
    assert second.get("/v1/status?node=node1")["node"] == "node1"
    assert first.ask("DELETE", "/v1/nodes/node2")[0] == 200
    for method, path in (("GET", "/v1/status?node=node1"), ("GET", "/v1/nodes"),
                         ("POST", "/v1/vms/web1/start"), ("POST", "/v1/tokens")):
        kind, message = second.error(method, path)
        assert kind == "certificate" and "removed" in message
    assert "removed" in second.get("/v1/status")["problems"][0]
    assert first.error("GET", "/v1/status?node=node2")[0] == "no-node"


def test_removed_node_joins_again(pair):
    first, second = pair
    first.ask("DELETE", "/v1/nodes/node2")
    second.end()
    assert second.command("--config", second.conf, "--forget").returncode == 0
    second.start()
    status, answer = join(first, second, "node2")
    assert status == 200, answer
    assert [n["state"] for n in first.get("/v1/nodes")["nodes"]] == ["up", "up"]


def test_metrics_are_in_the_text_format(node):
    node.ask("GET", "/v1/vms/web9")
    text = node.get("/metrics")
    assert 'drover_build_info{version="' in text
    assert "\ndrover_ready 1\n" in text
    assert 'drover_request_errors_total{kind="no-vm"} 1' in text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2
        if not line.startswith("#"):
            float(line.rsplit(" ", 1)[1])


def test_restart_of_a_node_fails_no_request_of_another(pair):
    first, second = pair
    task = {"argv": ["stop", "web9"], "at_ms": int(time.time() + 3600) * 1000}
    for how in (signal.SIGTERM, signal.SIGKILL):
        assert first.ask("POST", "/v1/tasks?node=node2", task)[0] == 200
        second.end(how)
        second.start()
        status, answer = first.ask("POST", "/v1/tasks?node=node2", task)
        assert status == 200, answer
