"""droverd as a program: its start and stop, its settings, and the members of a cluster."""

import os
import pwd
import signal
import socket
import threading
import time

import pytest
from daemons import (Daemon, fixture_daemon, fixture_directory, fixture_new_daemon, fixture_node,
                     wait_ready)

# Found by pytest in this module.
FIXTURES = (fixture_daemon, fixture_directory, fixture_new_daemon, fixture_node)


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
    assert time.monotonic() - begin < 9  # a connection that says nothing has 10
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
    assert time.monotonic() - begin < 25
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
    kept = node.state / "ca.key.forgotten"
    kept.touch()
    assert "ca.key.forgotten" in node.command("--config", node.conf, "--forget").stderr
    kept.unlink()
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
    ("[node]\nvm_user=65534:65534\nwire_user=nobody-of-that-name\n", "nobody-of-that-name"),
])
def test_settings_that_do_not_fit(directory, text, word):
    daemon = Daemon(directory / "n1")
    daemon.conf.write_text(text)
    run = daemon.command("--config", daemon.conf)
    assert run.returncode == 21 and word in run.stderr


def has_wire_user():
    try:
        pwd.getpwnam("drover-wire")
    except KeyError:
        return False
    return True


@pytest.mark.skipif(has_wire_user(), reason="this machine has a user drover-wire")
def test_a_missing_default_user_of_the_data_mover_is_said(new_daemon):
    daemon = new_daemon("n1").start()
    assert "there is no user drover-wire: drover-wire runs as 65534:65534" in daemon.log()


def test_a_data_mover_with_a_user_of_its_own_is_nothing_to_say(new_daemon):
    daemon = new_daemon("n1")
    text = daemon.conf.read_text()
    daemon.conf.write_text(text.replace("[qemu]", "wire_user=64056:64056\n[qemu]"))
    assert "wire_user" not in daemon.start().log()


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


def test_the_clusters_key_outlives_its_node_and_lets_nodes_in_elsewhere(pair, new_daemon):
    first, second = pair
    assert second.ask("DELETE", "/v1/nodes/node1")[0] == 200
    first.end()
    assert first.command("--config", first.conf, "--forget").returncode == 0
    assert not (first.state / "ca.key").exists()
    second.end()
    (first.state / "ca.key.forgotten").rename(second.state / "ca.key")
    second.start()
    third = new_daemon("n3", port=unused_port()).start()
    assert join(second, third, "node3")[0] == 200


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
