"""What an outside client of a guest sees: its answers to datagrams, its TCP connection, and what
the test program in it says."""

import json
import select
import socket
import time

from . import net
from .paths import LabError

DATA_PORT, CONTROL_PORT = 7000, 7001
DATAGRAM_EVERY_S = 0.001
LINE_EVERY_S = 0.01
# How long the last answers may take. A datagram's comes at once or never; TCP sends again after
# 0.2 s, 0.4 s, ... and so may need as long again as the guest was away.
LINGER_UDP_S = 0.3
LINGER_TCP_S = 20


def ask(namespace, address, *command, timeout=60):
    """Sends a command to the test program; its JSON answer as an object."""
    with net.socket_in(namespace, socket.SOCK_STREAM) as control:
        control.settimeout(timeout)
        try:
            control.connect((address, CONTROL_PORT))
            control.sendall((" ".join(map(str, command)) + "\n").encode())
            line = control.makefile("rb").readline(65536)
        except OSError as error:
            raise LabError(f"The test program at {address} does not answer: {error}") from error
    try:
        return json.loads(line)
    except ValueError as error:
        raise LabError(f"The test program at {address} answered {line[:200]!r}.") from error


def wait_ready(namespace, address, timeout=60):
    """Waits until the guest answers a datagram; returns the seconds that took."""
    start = time.monotonic()
    with net.socket_in(namespace, socket.SOCK_DGRAM) as udp:
        udp.connect((address, DATA_PORT))
        udp.settimeout(0.1)
        while time.monotonic() - start < timeout:
            try:
                udp.send(b"ready?")
                udp.recv(64)
                return time.monotonic() - start
            except OSError:
                pass
    raise LabError(f"The guest at {address} did not answer within {timeout} s.")


class Probe:
    """Sends a datagram a millisecond and holds a TCP connection, and watches the answers."""

    def __init__(self, namespace, address):
        self.udp = net.socket_in(namespace, socket.SOCK_DGRAM)
        self.udp.connect((address, DATA_PORT))
        self.udp.setblocking(False)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.tcp = net.socket_in(namespace, socket.SOCK_STREAM)
        self.tcp.settimeout(10)
        try:
            self.tcp.connect((address, DATA_PORT))
            hello = self.tcp.makefile("rb", buffering=0).readline(64).split()
        except OSError as error:
            raise LabError(f"The guest at {address} does not answer: {error}") from error
        if len(hello) != 2 or hello[0] != b"hello":
            raise LabError(f"The guest at {address} greets with {hello!r}.")
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tcp.setblocking(False)
        self.connection = hello[1].decode()
        self.buffer = b""
        self.lines_sent = self.lines_back = 0
        self.tcp_error = None
        self.number = 0
        self.reset()

    def reset(self):
        """Begins a new window of measurement; the connection stays."""
        self.first = self.number
        self.received = set()
        self.started = self.last = time.monotonic()
        self.ended = None  # when the last datagram was sent
        self.gap, self.gap_at = 0.0, 0.0

    def _see(self, now):
        if now - self.last > self.gap:
            self.gap, self.gap_at = now - self.last, self.last - self.started
        self.last = now

    def _send(self):
        try:
            self.udp.send(b"%d" % self.number)
        except OSError:
            pass  # refused or no route: counts as lost
        self.number += 1

    def _receive(self):
        try:
            while True:
                number = int(self.udp.recv(64))
                if number >= self.first:
                    self.received.add(number)
                    self._see(time.monotonic())
        except (OSError, ValueError):
            pass

    def _send_line(self):
        if self.tcp_error:
            return
        try:
            self.tcp.send(b"%d\n" % self.lines_sent)
            self.lines_sent += 1
        except BlockingIOError:
            pass
        except OSError as error:
            self.tcp_error = str(error)

    def _receive_lines(self):
        try:
            data = self.tcp.recv(65536)
            if not data:
                self.tcp_error = "closed by the guest"
        except BlockingIOError:
            return
        except OSError as error:
            data, self.tcp_error = b"", str(error)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            if line != b"%s %d" % (self.connection.encode(), self.lines_back):
                self.tcp_error = self.tcp_error or f"wrong answer {line[:64]!r}"
            self.lines_back += 1

    def step(self, poller, next_datagram):
        """Waits for answers until the time of the next datagram."""
        wait = next_datagram - time.monotonic()
        for fd, _ in poller.poll(max(0, wait) * 1000):
            if fd == self.udp.fileno():
                self._receive()
            else:
                self._receive_lines()
        if self.tcp_error:
            try:
                poller.unregister(self.tcp)
            except KeyError:
                pass

    def run(self, until, each=lambda: None):
        """Goes on until until() is true; calls each() between datagrams."""
        poller = select.poll()
        poller.register(self.udp, select.POLLIN)
        poller.register(self.tcp, select.POLLIN)
        self.reset()
        next_datagram = next_line = time.monotonic()
        while not until():
            now = time.monotonic()
            if now >= next_datagram:
                self._send()
                # A client that was not scheduled for a while sends no burst.
                next_datagram = max(next_datagram + DATAGRAM_EVERY_S, now)
            if now >= next_line:
                self._send_line()
                next_line = max(next_line + LINE_EVERY_S, now)
            self.step(poller, next_datagram)
            each()
        self._linger(poller)

    def _linger(self, poller):
        """Waits for what was not answered yet."""
        self.ended = time.monotonic()
        self._send_line()
        while time.monotonic() < self.ended + LINGER_TCP_S:
            udp_left = len(self.received) < self.number - self.first
            tcp_left = not self.tcp_error and self.lines_back < self.lines_sent
            if not tcp_left and not (
                    udp_left and time.monotonic() < self.ended + LINGER_UDP_S):
                break
            self.step(poller, time.monotonic() + 0.02)
        if not self.tcp_error and self.lines_back < self.lines_sent:
            self.tcp_error = "no answer any more"

    def result(self):
        """The window so far."""
        now = self.ended or time.monotonic()
        gap, gap_at = max((self.gap, self.gap_at), (now - self.last, self.last - self.started))
        sent = self.number - self.first
        return {"longest_gap_ms": round(gap * 1000, 1), "gap_at_s": round(gap_at, 3),
                "sent": sent, "lost": sent - len(self.received),
                "tcp_survived": self.tcp_error is None, "tcp_error": self.tcp_error,
                "tcp_connection": self.connection, "tcp_lines": self.lines_back,
                "seconds": round(now - self.started, 3)}
