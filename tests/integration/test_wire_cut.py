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
            try:
                self.source.sendall(piece)
            except BrokenPipeError:
                return
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


def started(bench, folder, *options, seconds=30, pages=8000):
    """Both sides with a stream of some seconds under way, through a relay."""
    receiver, port = bench.recv(f"unix:{folder}/dst.sock", "--reconnect", seconds)
    relay = Relay(port, SEED)
    bench.relays.append(relay)
    sender = bench.send(f"unix:{folder}/src.sock", relay.address, "--reconnect", seconds,
                        "--bandwidth", "10M", *options)
    sender.wait_for("connected")
    stream = Stream(SEED, pages)
    hypervisors = Hypervisors(folder, stream.pieces(), b"asked for this" * 1000)
    hypervisors.run()
    while sender.wait_for("progress")["acked_bytes"] < 1 << 20:
        pass
    return sender, receiver, relay, hypervisors


def test_network_that_is_silent_for_8_s_is_waited_for(bench, tmp_path):
    sender, receiver, relay, hypervisors = started(bench, tmp_path, "--lanes", 2)
    relay.hold()
    # Both find out by themselves.
    silent = {sender.wait_for("reconnecting")["message"],
              receiver.wait_for("reconnecting")["message"]}
    assert any("silent for too long" in message for message in silent)
    time.sleep(2)
    relay.reset()
    sent, received = sender.end(), receiver.end()
    hypervisors.check()
    assert sent["xxh3"] == received["xxh3"] and received["reconnections"] >= 3


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def nodes():
    """Two network namespaces with a cable between them."""
    names = [f"wirecut{os.getpid()}{side}" for side in "ab"]
    for name in names:
        ip("netns", "add", name)
    try:
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable",
           "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.99.99.{number}/30", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_cable_that_is_out_for_20_s_is_waited_for(bench, tmp_path, nodes):
    within = [("ip", "netns", "exec", name) for name in nodes]
    receiver, port = bench.recv(f"unix:{tmp_path}/dst.sock",
                                listen=("--listen", "10.99.99.2:0"), within=within[1])
    sender = bench.start("send", bench.node1, "node2", "--input", f"unix:{tmp_path}/src.sock",
                         "--connect", f"10.99.99.2:{port}", "--bandwidth", "10M", "--lanes", 2,
                         within=within[0])
    sender.wait_for("connected")
    hypervisors = Hypervisors(tmp_path, Stream(SEED, 8000).pieces(), b"asked for this" * 1000)
    hypervisors.run()
    while sender.wait_for("progress")["acked_bytes"] < 1 << 20:
        pass
    ip("-n", nodes[0], "link", "set", "cable", "down")
    sender.wait_for("reconnecting")
    receiver.wait_for("reconnecting")
    time.sleep(20 - 6)
    ip("-n", nodes[0], "link", "set", "cable", "up")
    sent, received = sender.end(), receiver.end()
    hypervisors.check()
    assert sent["xxh3"] == received["xxh3"] and sent["reconnections"] >= 3


def test_silence_that_is_shorter_than_a_lane_lives_breaks_nothing(bench, tmp_path):
    sender, receiver, relay, hypervisors = started(bench, tmp_path, "--lanes", 2)
    relay.hold()
    time.sleep(2)
    relay.open.set()
    assert sender.end()["reconnections"] == receiver.end()["reconnections"] == 0
    hypervisors.check()


def test_all_connections_reset_at_once_come_back(bench, tmp_path):
    sender, receiver, relay, hypervisors = started(bench, tmp_path, "--lanes", 4)
    for _ in range(5):
        relay.reset()
        sender.wait_for("reconnected")
    sent, received = sender.end(), receiver.end()
    hypervisors.check()
    assert sent["xxh3"] == received["xxh3"] and sent["reconnections"] >= 5
    events = [event["event"] for event in receiver.seen]
    assert events.count("reconnected") == received["reconnections"]


def test_network_that_does_not_come_back_ends_both_sides(bench, tmp_path):
    sender, receiver, relay, _ = started(bench, tmp_path, seconds=2)
    relay.hold()
    for side, peer in ((sender, "node2"), (receiver, "node1")):
        kind, message = side.error()
        assert kind == "unreachable" and f"the connection to {peer} broke" in message


@pytest.mark.parametrize("ended", ["send", "recv"])
def test_signal_ends_a_side_that_reconnects(bench, tmp_path, ended):
    sender, receiver, relay, _ = started(bench, tmp_path)
    relay.hold()
    side = sender if ended == "send" else receiver
    side.wait_for("reconnecting")
    side.process.send_signal(signal.SIGTERM)
    assert side.error()[0] == "interrupted"


def test_receiver_that_reads_sources_gives_up_in_time(bench, tmp_path):
    """Reports of how fast it reads are said on a lane that is not there."""
    path, image = make_image(tmp_path, SEED)
    source = ("--source", f"base={path}", "--reconnect", 3)
    receiver, port = bench.recv(f"unix:{tmp_path}/dst.sock", *source)
    hypervisors = Hypervisors(tmp_path, Stream(SEED, 5000, image).pieces(), b"")
    sender = bench.send(f"unix:{tmp_path}/src.sock", port, "--bandwidth", "1M", *source)
    sender.wait_for("connected")
    hypervisors.run()
    while sender.wait_for("progress")["acked_bytes"] < 1 << 20:
        pass
    sender.kill()
    receiver.wait_for("reconnecting")
    assert receiver.error()[0] == "unreachable"
    hypervisors.source.close()


def test_low_limit_of_bandwidth_does_not_silence_a_lane(bench):
    receiver, port = bench.recv("null")
    sender = bench.send("generate:68K", port, "--bandwidth", "9K", "--codec", "plain")
    assert sender.end()["reconnections"] == receiver.end()["reconnections"] == 0


# The end


def end_of(data):
    return struct.pack(">Q", len(data)) + wirelab.xxh3(data)


@pytest.mark.parametrize("lost", ["END", "END_ACK", "its ACK"])
def test_end_is_reached_although_its_lanes_break(bench, lost):
    receiver, port = bench.recv("null", "--reconnect", 20)
    lane, stream = bench.sender(port)
    stream.send(frame(wirelab.DATA, b"all", 2) + frame(wirelab.END, end_of(b"all"), 3))
    if lost != "END":
        lane.receive_until(wirelab.END_ACK)
    lane.close()
    stream.close()
    stream = bench.lane(port, 1)
    stream.send(frame(wirelab.DATA, b"all", 2) + frame(wirelab.END, end_of(b"all"), 3))
    lane = bench.lane(port, next=2 if lost != "its ACK" else 3)
    if lost != "its ACK":
        assert lane.receive_until(wirelab.END_ACK)[1:] == (2, end_of(b"all"))
        lane.send(frame(wirelab.ACK, struct.pack(">QQ", 2, 0)))
    assert receiver.end()["stream_bytes"] == 3


def test_receiver_that_told_all_succeeds_when_nobody_comes_back(bench):
    receiver, port = bench.recv("null", "--reconnect", 1)
    lane, stream = bench.sender(port)
    stream.send(frame(wirelab.END, end_of(b""), 2))
    lane.receive_until(wirelab.END_ACK)
    lane.close()
    stream.close()
    assert receiver.end()["stream_bytes"] == 0


def test_sender_asks_for_the_end_again(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = bench.send("generate:1000", server.getsockname()[1])
        lane, stream = bench.receiver(server)
        payload = stream.receive_until(wirelab.END)[2]
        lane.close()
        lane, theirs = bench.answer(server, next=4)
        assert (theirs["lane"], theirs["next"]) == (0, 2)
        lane.send(frame(wirelab.END_ACK, payload, 2))
        while lane.receive_until(wirelab.ACK)[2][:8] != struct.pack(">Q", 2):
            pass
        lane.close()
        stream.close()
        assert sender.end()["stream_bytes"] == 1000


def test_return_path_of_a_source_that_is_gone_is_dropped(bench):
    source, feed = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server, source, feed:
        sender = bench.send(f"fd:{source.fileno()}", server.getsockname()[1],
                            pass_fds=(source.fileno(),))
        lane, stream = bench.receiver(server)
        source.close()
        feed.close()
        payload = stream.receive_until(wirelab.END)[2]
        lane.send(frame(wirelab.RETURN, b"x" * 1000, 2) + frame(wirelab.END_ACK, payload, 3))
        while lane.receive_until(wirelab.ACK)[2][:8] != struct.pack(">Q", 3):
            pass
        lane.close()
        stream.close()
        sender.end()


# Memory


def peak_mib(side):
    with open(f"/proc/{side.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10


def push(peer, data):
    """Sends until the other end takes no more, or all."""
    peer.connection.settimeout(0.5)
    try:
        for piece in data:
            peer.send(piece)
    except (OSError, TimeoutError):
        return


def test_sender_that_floods_takes_no_more_memory_than_stated(bench):
    reading, writing = os.pipe()
    receiver, port = bench.recv(f"fd:{writing}", pass_fds=(writing,))
    lane = bench.lane(port, lanes=16)
    streams = [bench.lane(port, number, lanes=16) for number in range(1, 17)]
    streams[0].send(frame(wirelab.SETUP, wirelab.setup(cache=16 << 30)))
    lane.receive_until(wirelab.SETUP_ACK)
    full = random.randbytes((1 << 20) - 16)
    # Nobody reads what is written; each lane carries all of the window, and begins another frame.
    for stream in streams:
        push(stream, [frame(wirelab.DATA, full, number) for number in range(2, 18)])
    push(lane, [frame(wirelab.PAGES, struct.pack(">QH", 3, 0) + bytes(PAGE))] * 2000)
    for number in range(1, 17):
        push(bench.lane(port, number, lanes=16), [frame(wirelab.DATA, full, 2)])
    assert peak_mib(receiver) < 150
    assert receiver.process.poll() is None
    os.close(reading)
    os.close(writing)


def test_receiver_that_floods_takes_no_more_memory_than_stated(bench, tmp_path):
    path, image = make_image(tmp_path, SEED)
    (tmp_path / "stream").write_bytes(b"".join(Stream(SEED, 3000, image).pieces()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = bench.send(f"file:{tmp_path}/stream", server.getsockname()[1], "--source",
                            f"base={path}")
        lane, stream = bench.receiver(server, struct.pack(">QI", 128 << 20, 1))
        stream.receive_until(wirelab.BATCH)
        push(lane, [frame(wirelab.MISS, struct.pack(">QH", 1 << 40, 0))] * 5000)
        push(lane, [frame(wirelab.READING, struct.pack(">QQ", n, (1 << 64) - 1 - n))
                    for n in (0, 1, (1 << 64) - 1, 255, 0)] * 100)
        push(lane, [frame(wirelab.RETURN, bytes(65536), n) for n in range(2, 11)])
        push(lane, [frame(wirelab.ACK, struct.pack(">QQ", 1, 0))] * 5000)
        assert peak_mib(sender) < 150
        assert sender.process.poll() is None
