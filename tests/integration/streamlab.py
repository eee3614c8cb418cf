"""Streams of real guests, recorded, and a plain walk over them that shares nothing with drover's
parser: what it finds is what the parser must find."""

import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import namedtuple

from droverlab.bare import Qmp
from droverlab.paths import GUESTS, QEMU, LabError

LIMIT_S = 60

Page = namedtuple("Page", "kind block address at word")
Walk = namedtuple("Walk", "pages forms commands blocks")


class Guest:
    """A tiny guest with several blocks of memory; without a network, its console is a shell."""

    def __init__(self, folder, version, memory, machine=None, incoming=False):
        name = "destination" if incoming else "source"
        self.console_path = folder / f"{name}.console"
        base = QEMU / version
        command = [base / "bin/qemu-system-x86_64", "-L", base / "data",
                   "-machine", f"pc-q35-{machine or version}", "-accel", "tcg", "-cpu", "qemu64",
                   *memory, "-display", "none", "-nodefaults", "-vga", "std",
                   "-serial", f"unix:{self.console_path},server=on,wait=off",
                   "-qmp", f"unix:{folder}/{name}.qmp,server=on,wait=off",
                   "-kernel", GUESTS / "vmlinuz", "-initrd", GUESTS / "tiny.initrd",
                   "-append", "console=ttyS0 quiet",
                   *(("-incoming", "defer") if incoming else ())]
        self.log = open(folder / f"{name}.log", "wb")
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        try:
            self.console = self._connect(self.console_path)
            self.qmp = Qmp(folder / f"{name}.qmp")
        except BaseException:
            self.end()
            raise

    def _connect(self, path):
        deadline = time.monotonic() + LIMIT_S
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
                connection.settimeout(LIMIT_S)
                return connection
            except OSError as error:
                connection.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"QEMU does not come up: see {self.log.name}.") from error
                time.sleep(0.01)

    def boot(self, *commands):
        """Waits until the guest is up, and has its shell run commands."""
        self._wait_for(b"READY")
        for command in commands:
            # What is typed comes back, too; so it must not look like the answer.
            self.console.sendall(f"{command}\necho done-$((7 * 6))\n".encode())
            self._wait_for(b"done-42")

    def _wait_for(self, words):
        seen = b""
        while words not in seen:
            piece = self.console.recv(4096)
            if not piece:
                raise LabError("The guest's console has ended.")
            seen += piece

    def capabilities(self, *names):
        self.qmp.execute("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True} for name in ("events", *names)])

    def ram(self):
        """QEMU's own count of what it sent."""
        return self.qmp.execute("query-migrate")["ram"]

    def end(self):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if hasattr(self, "console"):
            self.console.close()
        if hasattr(self, "qmp"):
            self.qmp.sock.close()
        self.log.close()


class Relay:
    """Stands between two hypervisors and keeps what the source sends on its first channel."""

    def __init__(self, folder, target):
        self.path, self.target, self.record = folder / "relay.sock", target, folder / "stream"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen(8)
        self.sockets, self.threads = [], []
        self._start(self._accept)

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        self.threads.append(thread)

    def _accept(self):
        record = open(self.record, "wb")
        while True:
            try:
                source = self.server.accept()[0]
            except OSError:
                return
            destination = socket.socket(socket.AF_UNIX)
            destination.connect(str(self.target))
            self.sockets += [source, destination]
            self._start(self._copy, source, destination, record)
            self._start(self._copy, destination, source, None)
            record = None

    @staticmethod
    def _copy(source, sink, record):
        try:
            while piece := source.recv(1 << 18):
                if record:
                    record.write(piece)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other direction has ended
        finally:
            if record:
                record.close()

    def end(self):
        """Waits until all that was sent is recorded; the hypervisors have ended."""
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for thread in self.threads:
            thread.join(LIMIT_S)
        for connection in self.sockets:
            connection.close()


class Reader:
    """Bytes one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return values[0] if len(values) == 1 else values

    def string(self):
        return self.bytes(self.take("B")).decode()

    def bytes(self, length):
        self.at += length
        assert self.at <= len(self.data), "the stream ends too early"
        return self.data[self.at - length:self.at]


def _configuration(reader):
    """Names of the capabilities in the section, which has just begun."""
    reader.bytes(reader.take("I"))
    capabilities = []
    while reader.data[reader.at] == 0x05:
        reader.take("B")
        name, _ = reader.string(), reader.take("I")
        if name == "configuration/capabilities":
            capabilities = [reader.string() for _ in range(reader.take("I"))]
        else:
            assert name == "configuration/uuid", name
            reader.bytes(16)
    return capabilities


def _blocks(reader, total, page_sizes, ignore_shared):
    names = []
    while total:
        names.append(reader.string())
        total -= reader.take("Q")
        following = struct.unpack_from(">Q", reader.data, reader.at)[0]
        if following != 4096 and following in page_sizes:
            reader.take("Q")
        if ignore_shared:
            reader.take("Q")
    return names


def _page(reader, word, block, walk, start):
    """One page; what the parser must find of it goes to walk.pages."""
    flags, same = word & 0xfff & ~0x20, bool(word & 0x20)
    if not same:
        block = reader.string()
    if block not in walk.blocks:
        walk.blocks.append(block)
    at = start if same else reader.at
    if flags == 0x02:
        form = "zero" if reader.take("B") == 0 else "fill"
    elif flags == 0x08:
        form = "full"
        reader.bytes(4096)
    elif flags == 0x40:
        form = "xbzrle"
        reader.bytes(reader.take("BH")[1])
    else:
        assert flags == 0x100, hex(word)
        form = "compressed"
        reader.bytes(reader.take("I"))
    walk.forms[form] = walk.forms.get(form, 0) + 1
    if form in ("zero", "full"):
        walk.pages.append(Page(form, walk.blocks.index(block), word & ~0xfff, at, int(same)))
    return block


def _ram(reader, block, walk, page_sizes, ignore_shared):
    """The words of one section; returns the block of its last page."""
    while True:
        start, word = reader.at, reader.take("Q")
        if word == 0x10:
            return block
        if word & 0xfff == 0x04:
            walk.blocks.extend(_blocks(reader, word & ~0xfff, page_sizes, ignore_shared))
        elif word not in (0x80, 0x200):
            block = _page(reader, word, block, walk, start)
        else:
            walk.forms[hex(word)] = walk.forms.get(hex(word), 0) + 1


def _command(reader, walk):
    """Passes over a command; returns the sizes of pages that ADVISE names."""
    number, length = reader.take("HH")
    walk.commands.append(number)
    payload = reader.bytes(length)
    if number == 7:
        reader.bytes(struct.unpack(">I", payload)[0])
    if number == 3 and length == 16:
        summary = struct.unpack(">QQ", payload)[0]
        return {1 << bit for bit in range(12, 40) if summary >> bit & 1}
    return set()


def walk_stream(data):
    """What is in a stream of QEMU, up to the end of its memory."""
    reader, walk = Reader(data), Walk([], {}, [], [])
    assert reader.take("4sI") == (b"QEVM", 3)
    assert reader.take("B") == 0x07
    ignore_shared = "x-ignore-shared" in _configuration(reader)
    block, page_sizes = None, set()
    while True:
        kind = reader.take("B")
        if kind == 0x08:
            page_sizes |= _command(reader, walk)
            continue
        assert kind in (0x01, 0x02, 0x03), f"section {kind:#x} at {reader.at}"
        number = reader.take("I")
        if kind == 0x01:
            assert (reader.string(), *reader.take("II")) == ("ram", 0, 4)
        block = _ram(reader, block, walk, page_sizes, ignore_shared)
        if kind == 0x03:
            return walk
        assert reader.take("BI") == (0x7e, number)


def parse(program, kind, path, *seed):
    """What drover's parser finds: (name, full, zero, other, unknown), [Page]."""
    run = subprocess.run([program, kind, path, *map(str, seed)], capture_output=True, text=True,
                         check=False)
    assert run.returncode == 0, run.stderr
    first, *lines = run.stdout.splitlines()
    name, *counts = first.split()
    pages = [Page(form, *map(int, rest)) for form, *rest in (line.split() for line in lines)]
    return (name, *map(int, counts)), pages


def describe(walk):
    return json.dumps({"forms": walk.forms, "commands": walk.commands, "blocks": walk.blocks})
