"""What droverd makes of bad requests: one clear sentence, a kind of its own, and no change."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from daemons import Daemon, fixture_daemon, fixture_directory, fixture_new_daemon
from droverlab.paths import ROOT

# Found by pytest in this module.
FIXTURES = (fixture_daemon, fixture_directory, fixture_new_daemon)
MIB = 1 << 20


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
    ("DELETE", "/v1/vms/web1?discard=yes", None),
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
    ("POST", "/v1/migrations", {"vm": "web1", "node": "node2", "options": {"bandwidth": 999999}},
     "usage"),
    ("POST", "/v1/migrations", {"vm": "web9", "node": "node2", "options": {"bandwidth": 1000000}},
     "no-vm"),
])
def test_each_failure_has_its_kind(shared, method, path, body, kind):
    assert shared.error(method, path, body)[0] == kind


def test_requests_before_the_cluster_is_made(daemon):
    for path in ("/v1/vms", "/v1/nodes", "/v1/migrations", "/v1/tasks", "/v1/ca"):
        assert daemon.error("GET", path)[0] == "no-cluster"
    assert daemon.error("POST", "/v1/tokens")[0] == "no-cluster"
    assert daemon.error("POST", "/v1/join", {"address": "127.0.0.1", "token": "x"})[0] == "token"


def routes_of_the_source():
    """(method, path, who) of each line of the tables in src/daemon/api_*.c."""
    line = re.compile(r'X\(\w+, "([A-Z]+)", "([^"]+)", (\w+),')
    names = {"API_ANY_NODE": "local, peer", "SERVER_LOCAL": "local", "SERVER_PEER": "the source",
             "ALL": "anyone"}
    return {(method, path, names[who]) for file in (ROOT / "src/daemon").glob("api_*.c")
            for method, path, who in line.findall(re.sub(r"\\\n\s*", "", file.read_text()))}


def routes_of_the_document():
    rows = re.findall(r"^\| ([A-Z]+) (/\S+) \|.*\| ([a-z, ]+?)(?: \(.*\))? \|$",
                      (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    return {(method, path, who) for method, path, who in rows}


def test_document_has_every_route_and_no_other():
    assert len(routes_of_the_source()) > 30
    assert routes_of_the_document() == routes_of_the_source()
