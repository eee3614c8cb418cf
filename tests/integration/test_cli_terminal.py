"""The command on a terminal, against a droverd that is played by the test: what it asks
there, and consoles."""

import contextlib
import os
import pty
import socket
import termios
import threading

import pytest
from clilab import CANCELLED, NOT_OWNER, REFUSED, USAGE, Terminal, fixture_droverd, run, wait_for

FIXTURES = (fixture_droverd,)


def test_text_from_elsewhere_cannot_drive_the_terminal(droverd):
    droverd.answers["GET /v1/tasks/1/log"] = {"text": "a\x1b[2Jb\nc", "offset": 7, "ended": True}
    terminal = Terminal(droverd.path, "task", "log", "1")
    assert terminal.end() == 0
    assert terminal.seen == "a?[2Jb\r\nc"


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


def test_rm_of_a_suspended_vm_says_what_it_throws_away(droverd):
    droverd.answers["GET /v1/vms/web1"] = {"name": "web1", "state": "suspended", "saved": {}}
    droverd.answers["DELETE /v1/vms/web1"] = {}
    result = run(droverd.path, "rm", "web1", "--yes")
    assert result.returncode == REFUSED and "drover rm web1 --discard" in result.stderr
    assert not droverd.sent("DELETE")
    terminal = Terminal(droverd.path, "rm", "web1", "--discard")
    terminal.read_until("the saved state of its guest")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert droverd.sent("DELETE /v1/vms/web1?discard=1")


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
