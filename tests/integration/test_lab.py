"""The lab itself: it is what the other tests take it for, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from droverlab import bare, debs, guest_client, guests, net
from droverlab.lab import SHARED, VM_USER, Lab
from droverlab.paths import GUESTS, QEMU, ROOT, LabError
from droverlab.vm import Probe

from traces import traces

LAB = ROOT / "lab" / "lab"


@pytest.fixture(scope="module", name="lab")
def fixture_lab(make_lab, tiny_guest):
    return make_lab("bare", nodes=2, rate_mbit=1000, bare=True)


@pytest.fixture(name="native")
def fixture_native(lab):
    """The test program with no VM around it, in the namespace of the guests' client."""
    process = subprocess.Popen(["ip", "netns", "exec", lab.guests, guests.test_program()],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "drover-guest: READY\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(name="vm")
def fixture_vm(lab):
    """The tiny guest on node1, serving."""
    vm = bare.BareVM(lab.node("node1"), "vm", 11, arguments=bare.tiny(11))
    guest_client.wait_ready(lab.guests, vm.address)
    yield vm
    vm.end()


def test_nodes_reach_each_other_over_the_link_only(lab):
    first, second = lab.nodes
    listener = net.socket_in(second.namespace, socket.SOCK_STREAM)
    listener.bind((second.address, 0))
    listener.listen(1)
    with listener, net.socket_in(first.namespace, socket.SOCK_STREAM) as there:
        there.settimeout(5)
        there.connect(listener.getsockname())
    with pytest.raises(OSError), net.socket_in(lab.guests, socket.SOCK_STREAM) as elsewhere:
        elsewhere.settimeout(5)
        elsewhere.connect(listener.getsockname())


def test_link_is_shaped_to_the_rate(lab):
    for node in lab.nodes:
        shown = node.run("tc", "qdisc", "show", "dev", "mig0").stdout
        assert "tbf" in shown and "rate 1Gbit" in shown


def test_a_node_has_its_own_run_and_network(lab):
    first, second = lab.nodes
    first.run("touch", "/run/drover/here")
    assert second.run("test", "-e", "/run/drover/here", check=False).returncode == 1
    assert not Path("/run/drover/here").exists()
    assert set(first.run("ls", "/sys/class/net").stdout.split()) == {"br0", "lo", "mig0", "up0"}


def test_unprivileged_user_reaches_pool_qemu_and_guests(make_lab, tmp_path, tiny_guest):
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    lab = Lab(hidden / "lab")
    lab.up(nodes=1, bare=True)
    try:
        node = lab.nodes[0]
        (lab.pool / "file").write_text("there")
        user = ["setpriv", "--reuid", str(VM_USER), "--regid", str(VM_USER), "--clear-groups"]
        assert node.run(*user, "cat", f"{SHARED}/pool/file").stdout == "there"
        node.run(*user, "head", "-c1", f"{SHARED}/guests/vmlinuz")
        version = node.run(*user, f"{SHARED}/qemu/10.0/bin/qemu-system-x86_64", "-version").stdout
        assert "version 10.0" in version
    finally:
        lab.down()


def test_down_ends_processes_and_leaves_nothing(tmp_path, tiny_guest):
    lab = Lab(tmp_path / "lab")
    lab.up(nodes=3, bare=True)
    process = lab.nodes[2].popen("sh", "-c", "trap '' TERM; sleep 1000 & wait", cwd="/")
    assert len(net.namespaces(lab.prefix)) == 5
    lab.down()
    process.wait(30)
    assert traces(lab) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_leaves_nothing(tmp_path, number):
    lab = Lab(tmp_path / "lab")
    up = subprocess.Popen([LAB, "--lab", lab.directory, "up", "--bare", "--nodes", "30"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not net.namespaces(lab.prefix + "node") and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(up.pid, number)
    _, err = up.communicate(timeout=60)
    assert up.returncode != 0 and b"interrupted" in err
    assert traces(lab) == []


def test_failed_up_leaves_nothing_and_says_why(tmp_path):
    lab = Lab(tmp_path / "lab")
    with pytest.raises(LabError, match="no QEMU 9.9"):
        lab.up(nodes=2, qemu={"node2": "9.9"}, bare=True)
    with pytest.raises(LabError, match="none of the 2 nodes"):
        lab.up(nodes=2, qemu={"node3": "10.0"}, bare=True)
    assert traces(lab) == []


def test_two_labs_are_up_side_by_side(lab, tmp_path):
    other = Lab(tmp_path / "lab")
    other.up(nodes=1, bare=True)
    other.down()
    assert len(lab.nodes) == 2
    assert lab.nodes[0].run("true").returncode == 0


def test_second_up_is_refused(lab):
    with pytest.raises(LabError, match="up already"):
        lab.up(bare=True)
    assert len(lab.nodes) == 2


def test_sources_for_backports_come_from_the_machines_own(tmp_path, monkeypatch):
    monkeypatch.setattr(debs, "codename", lambda: "bookworm")
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://wrong.invalid/debian bookworm main\n"
        "deb [signed-by=/key.gpg arch=amd64,i386] http://one.invalid/debian bookworm main contrib\n"
        "deb http://security.invalid/debian bookworm-security main\n")
    (parts / "two.sources").write_text(
        "Types: deb deb-src\nURIs: http://two.invalid/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main non-free\nSigned-By:\n -----BEGIN\n .\n abc\n\n"
        "Types: deb\nURIs: http://off.invalid/debian\nSuites: bookworm\nEnabled: no\n")
    (parts / "ignored.list.bak").write_text("deb http://wrong.invalid/debian bookworm main\n")
    text = debs.sources(endings=("-backports",), etc=tmp_path)
    assert text == (
        "Types: deb\nURIs: http://one.invalid/debian\nSuites: bookworm-backports\n"
        "Components: main\nsigned-by: /key.gpg\nArchitectures: amd64 i386\n\n"
        "Types: deb\nURIs: http://two.invalid/debian\nSuites: bookworm-backports\n"
        "Components: main\nSigned-By: \n -----BEGIN\n .\n abc\n")


def test_guest_program_finds_a_page_that_changed_by_itself(lab, native):
    def ask(*command):
        return guest_client.ask(lab.guests, "10.77.0.1", *command)

    ask("fill", 16, "text")
    ask("dirty", 200, "words")
    assert ask("check")["ok"]
    ask("dirty", 200, "page")
    assert ask("check")["ok"]
    ask("stop")
    with open(f"/proc/{native.pid}/maps", encoding="ascii") as maps:
        areas = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    start = next(area[0] for area in areas if 16 << 20 <= area[1] - area[0] < 17 << 20)
    with open(f"/proc/{native.pid}/mem", "r+b") as memory:
        memory.seek(start)
        content = memory.read(16 << 20)
        first = start + content.index(b"!!revord")
        memory.seek(first + 7 * 4096 + 100)
        memory.write(b"?")
    answer = ask("check")
    assert (answer["ok"], answer["bad"], answer["first_bad"]) == (False, 1, 7)


@pytest.mark.parametrize("pattern", ["text", "random", "zero"])
def test_guest_program_fills_in_every_pattern(lab, native, pattern):
    for command in (("fill", 4, pattern), ("dirty", 100, "words", 2), ("dirty", 100, "page")):
        assert "error" not in guest_client.ask(lab.guests, "10.77.0.1", *command)
    assert guest_client.ask(lab.guests, "10.77.0.1", "check")["ok"]


@pytest.mark.parametrize("command", [
    "fill", "fill 0 text", "fill -1 text", "fill 99999999999999999999 text", "fill 4 blue",
    "fill 1048576 text", "dirty 5 page", "dirty x page", "disk", "diskcheck /none", "", "what"])
def test_guest_program_answers_bad_commands_with_an_error(lab, native, command):
    assert "error" in guest_client.ask(lab.guests, "10.77.0.1", command)
    assert "pages" in guest_client.ask(lab.guests, "10.77.0.1", "status")


def write_records(lab, address, path):
    """Has the test program write 20 records or more; returns how many."""
    guest_client.ask(lab.guests, address, "disk", path, 1000)
    deadline = time.monotonic() + 60
    while guest_client.ask(lab.guests, address, "status")["disk_records"] < 20:
        assert time.monotonic() < deadline
    return guest_client.ask(lab.guests, address, "disk", path, 0)["records"]


def test_guest_program_finds_a_wrong_disk_record(lab, native, tmp_path):
    path = tmp_path / "records"
    written = write_records(lab, "10.77.0.1", path)
    assert guest_client.ask(lab.guests, "10.77.0.1", "diskcheck", path)["ok"]
    with open(path, "r+b") as file:
        file.seek(512 * 3 + 200)
        file.write(b"\x01\x02")
    answer = guest_client.ask(lab.guests, "10.77.0.1", "diskcheck", path)
    assert (answer["ok"], answer["bad"]) == (False, 1)
    with open(path, "r+b") as file:
        file.truncate(512 * (written - 1))
    assert not guest_client.ask(lab.guests, "10.77.0.1", "diskcheck", path)["ok"]


def test_probe_sees_a_pause_and_the_same_connection_after_it(lab, vm):
    with Probe(lab, vm.address) as probe:
        before = probe.window()
        vm.qmp.execute("stop")
        time.sleep(0.4)  # the pause that is to be seen
        vm.qmp.execute("cont")
        guest_client.wait_ready(lab.guests, vm.address)
        seen = probe.end()
    assert before["tcp_connection"] == seen["tcp_connection"]
    assert seen["longest_gap_ms"] >= 400
    assert seen["lost"] < seen["sent"]
    assert seen["tcp_survived"] and len(seen["tcp_connection"]) == 16


def test_probe_sees_that_a_guest_was_restarted(lab, vm):
    with Probe(lab, vm.address) as probe:
        vm.qmp.execute("system_reset")
        vm.qmp.wait_event("RESET", 20)
        guest_client.wait_ready(lab.guests, vm.address)
        seen = probe.end()
    assert not seen["tcp_survived"] and seen["tcp_error"]


def test_power_button_ends_the_tiny_guest(vm):
    vm.qmp.execute("system_powerdown")
    vm.qmp.wait_event("SHUTDOWN", 20, guest=True)
    vm.process.wait(20)


@pytest.mark.skipif(not (GUESTS / "debian.qcow2").exists(),
                    reason="lab/lab guest debian builds it, in minutes")
def test_debian_guest_runs_from_its_own_disk_until_its_power_button_is_pressed(lab):
    image = guests.guest("debian")[0]
    lab.add_image(image)
    node, disk = lab.node("node1"), f"{SHARED}/pool/debian-test.qcow2"
    node.run(QEMU / "10.0/bin/qemu-img", "create", "-q", "-f", "qcow2", "-b",
             f"{SHARED}/pool/images/{image.name}", "-F", "qcow2", disk)
    vm = bare.BareVM(node, "debian", 12, memory_mib=512, arguments=bare.debian(12, disk))
    try:
        guest_client.wait_ready(lab.guests, vm.address, 180)
        with Probe(lab, vm.address) as probe:
            assert probe.end()["tcp_survived"]
        written = write_records(lab, vm.address, "/var/tmp/records")
        read = guest_client.ask(lab.guests, vm.address, "diskcheck", "/var/tmp/records")
        assert read["ok"] and read["records"] >= written
        vm.qmp.execute("system_powerdown")
        vm.qmp.wait_event("SHUTDOWN", 90, guest=True)
    finally:
        vm.end()


def test_qemus_own_move_keeps_connection_and_memory(lab, vm):
    guest_client.ask(lab.guests, vm.address, "fill", 32, "text")
    guest_client.ask(lab.guests, vm.address, "dirty", 10, "words")
    there = bare.BareVM(lab.node("node2"), "vm", 11, arguments=bare.tiny(11), incoming=True)
    try:
        with Probe(lab, vm.address) as probe:
            bare.migrate(vm, there)
            guest_client.wait_ready(lab.guests, vm.address)
            assert probe.end()["tcp_survived"]
        answer = guest_client.ask(lab.guests, vm.address, "check")
        assert answer["ok"] and answer["pages"] == 32 << 8
    finally:
        there.end()
