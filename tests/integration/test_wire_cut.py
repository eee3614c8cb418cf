"""The data mover on a network that breaks: whatever happens to its connections, the bytes that
arrive are the bytes that left, and neither hypervisor is told."""

# pylint: disable=redefined-outer-name

import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import time

import pytest

import wirelab
from cutlab import PAGE, Relay, Stream
from wirelab import Bench, frame, in_thread

SEED = int(os.environ.get("DROVER_SEED", random.randrange(1 << 32)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("wire"))
    bench.relays = []
    return bench


@pytest.fixture
def bench(files):
    yield files
    for relay in files.relays:
        relay.end()
    files.relays.clear()
    files.end()


class Hypervisors:
    """Both hypervisors: one writes a stream, the other one reads it, and writes back."""

    def __init__(self, folder, pieces, back):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(folder / "dst.sock"))
        self.server.listen(1)
        self.server.settimeout(wirelab.LIMIT_S)
        self.source_path = folder / "src.sock"
        self.pieces, self.back = pieces, back
        self.sent, self.got, self.got_back = hashlib.sha256(), hashlib.sha256(), b""
        self.threads = []

    def run(self):
        self.destination = self.server.accept()[0]
        self.source = socket.socket(socket.AF_UNIX)
        self.source.connect(str(self.source_path))
        for end in self.source, self.destination:
            end.settimeout(wirelab.LIMIT_S)
        self.threads = [in_thread(self._write), in_thread(self._read), in_thread(self._answer)]

    def _write(self):
        for piece in self.pieces:
            self.sent.update(piece)
            self.source.sendall(piece)
        while len(self.got_back) < len(self.back):
            self.got_back += self.source.recv(65536)
        self.source.shutdown(socket.SHUT_WR)

    def _read(self):
        wirelab.read_all(self.destination, self.got)

    def _answer(self):
        for at in range(0, len(self.back), 9000):
            self.destination.sendall(self.back[at:at + 9000])

    def check(self):
        for thread in self.threads:
            thread.join()
        assert self.got.digest() == self.sent.digest()
        assert self.got_back == self.back
        for end in self.server, self.source, self.destination:
            end.close()


def make_image(folder, seed, blocks=3000):
    """An image with its index, and its contents."""
    contents = random.Random(seed).randbytes(blocks * PAGE)
    path = folder / "base.raw"
    path.write_bytes(contents)
    subprocess.run([wirelab.WIRE, "index", path], check=True, stdout=subprocess.DEVNULL)
    return path, contents


def change_image(path, seed):
    """Writes over every third block, in place."""
    chance = random.Random(seed)
    with open(path, "r+b") as image:
        for block in range(0, path.stat().st_size // PAGE, 3):
            image.seek(block * PAGE)
            image.write(chance.randbytes(PAGE))


@pytest.mark.parametrize("lanes,threads,options,cuts", [
    (1, 1, ("--bandwidth", "20M"), 0),
    (1, 1, ("--bandwidth", "20M"), 25),
    (1, 4, ("--bandwidth", "20M", "--cache", "2M"), 25),
    (2, 4, ("--bandwidth", "20M"), 40),
    (4, 1, ("--bandwidth", "20M", "--cache", "1M"), 60),
    (4, 4, (), 60),
    (4, 2, ("--cache", "0"), 40),
    (2, 2, ("--codec", "plain"), 40),
    (16, 4, (), 80),
])
def test_stream_survives_broken_connections(bench, tmp_path, lanes, threads, options, cuts):
    print("DROVER_SEED", SEED)
    seed = f"{SEED} {lanes} {threads} {options}"
    path, image = make_image(tmp_path, seed)
    both = ("--threads", threads, "--source", f"base={path}", "--reconnect", 30)
    cache = options[options.index("--cache"):] if "--cache" in options else ()
    receiver, port = bench.recv(f"unix:{tmp_path}/dst.sock", *both, *cache)
    relay = Relay(port, seed, cuts)
    bench.relays.append(relay)
    back = random.Random(seed).randbytes(1 << 20)
    hypervisors = Hypervisors(tmp_path, Stream(seed, 5000, image).pieces(), back)
    sender = bench.send(f"unix:{tmp_path}/src.sock", relay.address, "--lanes", lanes, *both,
                        *options)
    sender.wait_for("connected")
    change_image(path, seed)
    hypervisors.run()
    sent, received = sender.end(), receiver.end()
    hypervisors.check()
    assert sent["stream_bytes"] == received["stream_bytes"]
    assert sent["xxh3"] == received["xxh3"]
    assert sent["parser"] == ("opaque" if "plain" in options else "qemu")
    source = next((e for e in sender.seen if e["event"] == "source"), {"misses": 0, "hits": 0})
    if "plain" not in options:
        assert sent["unknown_bytes"] == 0 and 0 < source["misses"] <= source["hits"]
        assert sent["pages"]["difference"] > 0 or "--bandwidth" not in options
    print(sent, relay.broken, relay.connections)
    assert relay.broken >= cuts // 2 and sent["reconnections"] >= cuts // 8
