"""What the processes of a migration are allowed to do, and what can be seen of its secrets: looked at
while a real migration is held in the middle."""

import contextlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from droverlab import net
from droverlab.lab import SHARED, VM_USER, WIRE_USER
from moving import move_in_background, wait_rounds
from vms import Guest, drover, wait_for

RUN = "/run/drover"
STATE = f"{SHARED}/state"
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


class Held:
    """A migration that stands in its rounds, with what it was given to keep to itself."""

    def __init__(self, lab_, guest, token):
        self.lab, self.guest, self.nodes = lab_, guest, lab_.nodes
        self.secrets = [token.encode()]
        for node in self.nodes:
            for file in node.path(STATE).glob("*.key"):
                # The secret number is in the first two lines of 48 bytes; then comes what is in the
                # certificate as well.
                lines = [line for line in file.read_bytes().splitlines()
                         if line and not line.startswith(b"-----")]
                self.secrets += lines[:2]

    def processes(self, node):
        """{"qemu": pid, "wire": pid}"""
        found = {}
        for pid in net.pids(node.namespace):
            name = None
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                name = {b"qemu-system-x86_64": "qemu", b"drover-wire": "wire"}.get(
                    os.path.basename(words[0]))
            if name:
                assert name not in found, "two of them"
                found[name] = pid
        return found

    def leaked(self, text):
        return [secret[:8] for secret in self.secrets if secret in text]


def has_sent(node, migration):
    _, answer = node.api("GET", f"/v1/migrations/{migration}/events?after=0")
    return any(event["sent"] for event in answer["events"])


@pytest.fixture(name="held", scope="module")
def fixture_held(make_lab, tiny_guest):  # pylint: disable=unused-argument
    """It is held by the guest, which changes more than the lane carries. A droverd that is held would
    not do: the hypervisor comes to its end without it, and then the data movers have ended."""
    lab_ = make_lab("two", nodes=2)
    node1, node2 = lab_.nodes
    token = node1.drover("token")["token"]
    guest = Guest(lab_, node1, "vm1")
    guest.ask("dirty", 20, "page")
    move = move_in_background(node1, guest.name, "node2", "--bandwidth", "1M")
    found = wait_rounds(node1, guest)
    wait_for(lambda: has_sent(node1, found["id"]), "the first memory")
    try:
        yield Held(lab_, guest, token)
    finally:
        drover(node1, "migration", "cancel", found["id"])
        out, _ = move.communicate(timeout=120)
    assert move.returncode == 27, out
    guest.assert_runs_only_on(node1)
    assert not node2.path(f"{RUN}/vms/{guest.name}").exists()
    guest.remove(node1)


def status(pid, thread=None):
    file = f"/proc/{pid}/task/{thread}/status" if thread else f"/proc/{pid}/status"
    return dict(line.split(":\t", 1) for line in Path(file).read_text().splitlines()
                if ":\t" in line)


@pytest.mark.parametrize("name, user", [("qemu", VM_USER), ("wire", WIRE_USER)])
def test_processes_have_their_own_user_and_nothing_else(held, name, user):
    for node in held.nodes:
        pid = held.processes(node)[name]
        for thread in os.listdir(f"/proc/{pid}/task"):
            shown = status(pid, thread)
            assert shown["Uid"].split() == [str(user)] * 4, (node.name, shown)
            assert shown["Gid"].split() == [str(user)] * 4, (node.name, shown)
            assert shown["Groups"].split() == [], (node.name, shown)
            assert {shown[key] for key in CAPABILITIES} == {"0" * 16}, (node.name, shown)
            assert shown["NoNewPrivs"] == "1", (node.name, shown)
            assert shown["Seccomp"] == "2", (node.name, shown)


def as_user(user, *command):
    return subprocess.run(command, user=user, group=user, extra_groups=[], text=True,
                          capture_output=True, check=False, timeout=30)


def assert_cannot_signal(user, pid):
    told = as_user(user, "sh", "-c", f"kill -0 {pid}")
    assert told.returncode != 0 and "not permitted" in told.stderr, told


def test_the_data_mover_cannot_signal_a_hypervisor(held):
    for node in held.nodes:
        assert_cannot_signal(WIRE_USER, held.processes(node)["qemu"])


def test_a_guest_that_breaks_out_can_neither_signal_nor_read_the_data_mover(held):
    for node in held.nodes:
        pid = held.processes(node)["wire"]
        assert_cannot_signal(VM_USER, pid)
        for file in ("environ", "maps", "mem", "fd/0"):
            told = as_user(VM_USER, "cat", f"/proc/{pid}/{file}")
            assert told.returncode != 0 and "denied" in told.stderr, (file, told)


def connects(node, user, path):
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    told = node.run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                    "/usr/bin/python3", "-c", script, path, check=False)
    assert told.returncode == 0 or "PermissionError" in told.stderr, told
    return told.returncode == 0


def test_the_data_mover_reaches_no_socket_of_the_hypervisor_or_droverd(held):
    for node in held.nodes:
        directory = f"{RUN}/vms/{held.guest.name}"
        for path in (f"{directory}/qmp.sock", f"{directory}/console.sock", f"{RUN}/droverd.sock"):
            assert node.path(path).is_socket()
            assert not connects(node, WIRE_USER, path), path


def test_only_root_gives_a_hypervisor_orders_on_its_spare_monitor(held):
    for name in ("spare.in", "spare.out"):
        found = held.nodes[1].path(f"{RUN}/vms/{held.guest.name}/{name}").stat()
        assert stat.S_ISFIFO(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600, name
        assert found.st_uid == 0, name


def test_nobody_can_join_the_connection_between_hypervisor_and_data_mover(held):
    """It was made, and its name is gone."""
    for node in held.nodes:
        assert not node.path(f"{RUN}/vms/{held.guest.name}/migrate.sock").exists()


def everything_below(top):
    yield top
    for directory, folders, files in os.walk(top):
        yield from (Path(directory) / name for name in folders + files)


def test_files_and_sockets_are_closed_to_others(held):
    for node in held.nodes:
        modes = {RUN: 0o755, f"{RUN}/droverd.sock": 0o660, STATE: 0o700,
                 f"{STATE}/node.key": 0o600, f"{RUN}/vms/{held.guest.name}": 0o1771,
                 f"{RUN}/vms/{held.guest.name}/wire.log": 0o600}
        for path, mode in modes.items():
            assert stat.S_IMODE(node.path(path).stat().st_mode) == mode, (node.name, path)
        for path in everything_below(node.path(RUN)):
            shown = path.lstat()
            if not stat.S_ISLNK(shown.st_mode):
                sticky = shown.st_mode & stat.S_ISVTX
                assert not shown.st_mode & stat.S_IWOTH or sticky, path
            if stat.S_ISSOCK(shown.st_mode):
                assert not shown.st_mode & 0o007, path


def test_no_secret_is_in_an_argument_or_an_environment(held):
    for node in held.nodes:
        looked = 0
        for pid in net.pids(node.namespace):
            for file in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{pid}/{file}").read_bytes()
                    looked += len(text) > 0
                    assert held.leaked(text) == [], (node.name, pid, file, text[:80])
        assert looked > 6


def test_no_secret_is_in_a_log_or_in_a_file_that_others_can_read(held):
    for node in held.nodes:
        assert held.leaked(node.path(f"{STATE}/node.key").read_bytes()), "nothing would be found"
        logs = [node.log, *node.path(RUN).glob("vms/*/*.log"), *node.path(STATE).glob("tasks/*")]
        assert len(logs) >= 3, logs
        for log in logs:
            assert held.leaked(log.read_bytes()) == [], log
        for top in (RUN, STATE, f"{SHARED}/pool/nodes", f"{SHARED}/pool/vms"):
            for path in everything_below(node.path(top)):
                shown = path.lstat()
                if stat.S_ISREG(shown.st_mode) and shown.st_mode & stat.S_IROTH:
                    assert held.leaked(path.read_bytes()) == [], path
