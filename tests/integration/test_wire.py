"""The data mover as a program: what it carries, and how it ends when something fails."""

import hashlib
import os
import random
import signal
import socket
import struct

import pytest

import wirelab
from wirelab import fixture_bench, fixture_files, fixture_listening, frame, in_thread, read_all

FIXTURES = (fixture_bench, fixture_files, fixture_listening)
MIB = 1 << 20
STEP = 0x9E3779B97F4A7C15


def test_generated_stream_of_a_gigabyte_arrives_identical(bench, tmp_path):
    out = tmp_path / "out"
    receiver, port = bench.recv(f"file:{out}")
    sender = bench.send("generate:1G", port)
    sent, received = sender.end(), receiver.end()
    assert sent["stream_bytes"] == received["stream_bytes"] == out.stat().st_size == 1 << 30
    assert sent["xxh3"] == received["xxh3"]
    # What says goodbye is not read by everybody.
    assert abs(sent["wire_bytes"] - received["wire_bytes"]) < 100
    assert 1 << 30 < sent["wire_bytes"] < 1.01 * (1 << 30)
    with open(out, "rb") as stream:
        for word in [0, (1 << 27) - 512, *random.sample(range(1 << 27), 2000)]:
            stream.seek(word // 512 * 4096)
            first = word // 512 * 512
            assert stream.read(4096) == struct.pack(
                "<512Q", *(i * STEP % (1 << 64) for i in range(first, first + 512)))
    out.unlink()


def test_every_length_of_stream_arrives_identical(bench, tmp_path):
    for length in [0, 1, 65519, 65520, 65521, 300001]:
        source, out = tmp_path / "in", tmp_path / "out"
        source.write_bytes(random.randbytes(length))
        receiver, port = bench.recv(f"file:{out}")
        sender = bench.send(f"file:{source}", port)
        assert sender.end()["stream_bytes"] == receiver.end()["stream_bytes"] == length
        assert out.read_bytes() == source.read_bytes()


def test_stream_goes_from_hypervisor_to_hypervisor(bench, tmp_path, listening):
    server, path = listening
    receiver, port = bench.recv(f"unix:{path}")
    sender = bench.send(f"unix:{tmp_path}/src.sock", port)
    sender.wait_for("connected")
    assert (tmp_path / "src.sock").stat().st_mode & 0o777 == 0o660
    data, hashed = random.randbytes(40 * MIB), hashlib.sha256()
    with socket.socket(socket.AF_UNIX) as source:
        source.connect(str(tmp_path / "src.sock"))
        reader = in_thread(read_all, server.accept()[0], hashed)
        source.sendall(data)
    assert sender.end()["stream_bytes"] == receiver.end()["stream_bytes"] == len(data)
    reader.join()
    assert hashed.digest() == hashlib.sha256(data).digest()
    assert not (tmp_path / "src.sock").exists()


def test_small_writes_leave_at_once_both_ways(bench, tmp_path, listening):
    server, path = listening
    receiver, port = bench.recv(f"unix:{path}")
    sender = bench.send(f"unix:{tmp_path}/src.sock", port)
    sender.wait_for("connected")
    with socket.socket(socket.AF_UNIX) as source, server.accept()[0] as destination:
        source.settimeout(wirelab.LIMIT_S)
        destination.settimeout(wirelab.LIMIT_S)
        source.connect(str(tmp_path / "src.sock"))
        for i in range(200):
            source.sendall(b"%3d" % i)
            assert destination.recv(100) == b"%3d" % i
            destination.sendall(b"<%3d" % i)
            assert source.recv(100) == b"<%3d" % i
        source.shutdown(socket.SHUT_WR)
        assert sender.end()["stream_bytes"] == receiver.end()["stream_bytes"] == 600


def test_return_path_and_stream_are_full_duplex(bench, tmp_path, listening):
    server, path = listening
    receiver, port = bench.recv(f"unix:{path}")
    sender = bench.send(f"unix:{tmp_path}/src.sock", port)
    sender.wait_for("connected")
    forth, back = random.randbytes(32 * MIB), random.randbytes(16 * MIB)
    there, here = hashlib.sha256(), hashlib.sha256()
    with socket.socket(socket.AF_UNIX) as source, server.accept()[0] as destination:
        source.connect(str(tmp_path / "src.sock"))
        threads = [in_thread(source.sendall, forth), in_thread(destination.sendall, back),
                   in_thread(read_all, destination, there)]
        received = 0
        while received < len(back):
            data = source.recv(1 << 16)
            here.update(data)
            received += len(data)
        threads[0].join()
        source.shutdown(socket.SHUT_WR)
        assert sender.end()["stream_bytes"] == receiver.end()["stream_bytes"] == len(forth)
        for thread in threads:
            thread.join()
    assert there.digest() == hashlib.sha256(forth).digest()
    assert here.digest() == hashlib.sha256(back).digest()


def test_hypervisor_that_listens_late_is_waited_for(bench, tmp_path):
    receiver, port = bench.recv(f"unix:{tmp_path}/dst.sock")
    sender = bench.send("generate:1M", port)
    receiver.wait_for("connected")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "dst.sock"))
        server.listen(1)
        hashed = hashlib.sha256()
        read_all(server.accept()[0], hashed)
    assert sender.end()["stream_bytes"] == receiver.end()["stream_bytes"] == MIB


def test_slow_reader_holds_the_sender_and_little_is_in_flight(bench):
    reading, writing = os.pipe()
    source, feed = socket.socketpair()
    receiver, port = bench.recv(f"fd:{writing}", pass_fds=(writing,))
    sender = bench.send(f"fd:{source.fileno()}", port, pass_fds=(source.fileno(),))
    os.close(writing)
    source.close()
    receiver.wait_for("connected")
    data, sent = random.randbytes(64 * MIB), 0
    feed.settimeout(1)
    # Nobody reads: what the hypervisor can write is what fits between the two ends.
    with pytest.raises(TimeoutError):
        while sent < len(data):
            sent += feed.send(data[sent:sent + 65536])
    held = sent
    assert held < 16 * MIB
    feed.settimeout(wirelab.LIMIT_S)
    thread = in_thread(lambda: (feed.sendall(data[sent:]), feed.close()))
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == data
    thread.join()
    assert sender.end()["stream_bytes"] == receiver.end()["stream_bytes"] == len(data)


def test_files_and_sockets_may_be_descriptors(bench):
    listener = socket.create_server(("127.0.0.1", 0))
    key = os.open(bench.node2["key"], os.O_RDONLY)
    node = {"cert": bench.node2["cert"], "key": f"/dev/fd/{key}"}
    receiver, port = bench.recv("null", node=node, listen=("--listen-fd", listener.fileno()),
                                pass_fds=(listener.fileno(), key))
    assert port == listener.getsockname()[1]
    listener.close()
    os.close(key)
    assert bench.send("generate:3M", port).end()["stream_bytes"] == 3 * MIB
    receiver.end()


def test_progress_is_reported_while_it_goes(bench):
    receiver, port = bench.recv("null")
    sender = bench.send("generate:30M", port, "--bandwidth", "20M")
    seen = [sender.wait_for("progress") for _ in range(3)]
    assert seen[0]["stream_bytes"] < seen[2]["stream_bytes"] and seen[2]["rate_bps"] > 0
    for event in seen:
        assert event["acked_bytes"] <= event["stream_bytes"]
    sender.end()
    receiver.end()


def test_status_reader_that_goes_away_does_not_matter(bench):
    reading, writing = os.pipe()
    receiver, port = bench.recv("null")
    sender = bench.send("generate:8M", port, "--status-fd", writing, pass_fds=(writing,))
    os.close(reading)
    os.close(writing)
    assert sender.finish() == 0
    assert receiver.end()["stream_bytes"] == 8 * MIB


def test_process_can_gain_nothing_and_leaves_no_core(bench):
    receiver, _ = bench.recv("null")
    with open(f"/proc/{receiver.process.pid}/status", encoding="ascii") as status:
        assert "NoNewPrivs:\t1\n" in status.read()
    with open(f"/proc/{receiver.process.pid}/limits", encoding="ascii") as limits:
        core = next(line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def env_fault(what):
    return {**os.environ, "DROVER_FAULT": what}


def test_silent_receiver_is_given_up(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        kind, message = bench.send("generate:1000", server.getsockname()[1]).error()
        assert kind == "timeout" and "silent" in message


def test_sender_that_dies_is_waited_for_and_then_told_by_the_receiver(bench):
    receiver, port = bench.recv("null", "--reconnect", 1)
    sender = bench.send("generate:1T", port)
    receiver.wait_for("progress")
    sender.kill()
    assert receiver.wait_for("reconnecting")["message"].startswith("lane from node1 (127.0.0.1:")
    assert receiver.error() == ("unreachable", "the connection to node1 broke, and there has been "
                                "no other for 1 s")


def test_receiver_that_dies_is_told_by_the_sender_at_once(bench):
    receiver, port = bench.recv("null")
    sender = bench.send("generate:1T", port)
    sender.wait_for("progress")
    receiver.kill()
    kind, message = sender.error()
    assert kind == "unreachable" and f"lane to node2: cannot connect to 127.0.0.1:{port}" in message


@pytest.mark.parametrize("piece", [frame(wirelab.DATA, length=100)[:-1], b"",
                                   frame(wirelab.DATA, b"x" * 50, 2, 100)])
def test_lane_that_ends_in_the_middle_is_waited_for(bench, piece):
    receiver, port = bench.recv("null", "--reconnect", 1)
    _, stream = bench.sender(port)
    stream.send(piece)
    stream.connection.shutdown(socket.SHUT_WR)
    assert stream.is_closed()
    event = receiver.wait_for("reconnecting")
    assert event["lane"] == 1 and "closed the connection" in event["message"]
    assert receiver.error()[0] == "unreachable"


def test_destination_hypervisor_that_dies_is_named_on_both_sides(bench, listening):
    server, path = listening
    receiver, port = bench.recv(f"unix:{path}")
    sender = bench.send("generate:1T", port)
    with server.accept()[0] as hypervisor:
        assert hypervisor.recv(65536)
    kind, message = receiver.error()
    assert kind == "hypervisor" and str(path) in message and "bytes of the stream" in message
    kind, message = sender.error()
    assert kind == "hypervisor" and "node2 says: after " in message


def test_full_disk_at_the_destination_is_named_on_both_sides(bench):
    receiver, port = bench.recv("file:/dev/full")
    sender = bench.send("generate:10M", port)
    assert receiver.error()[0] == sender.error()[0] == "no-space"


@pytest.mark.parametrize("ended", ["send", "recv"])
def test_signal_cancels_both_sides(bench, ended):
    receiver, port = bench.recv("null")
    sender = bench.send("generate:1T", port)
    sender.wait_for("progress")
    (sender if ended == "send" else receiver).process.send_signal(signal.SIGTERM)
    for side in (sender, receiver):
        kind, message = side.error()
        assert kind == "interrupted" and "ended by signal 15" in message


@pytest.mark.parametrize("point", ["wire.send.connected", "wire.send.half", "wire.recv.connected",
                                   "wire.recv.before_ack"])
def test_fault_at_every_point_fails_both_sides(bench, point):
    side = point.split(".")[1]
    env = env_fault(f"{point}:error")
    receiver, port = bench.recv("null", env=env if side == "recv" else None)
    sender = bench.send("generate:20M", port, env=env if side == "send" else None)
    for message in (sender.error()[1], receiver.error()[1]):
        assert f"fault point {point}" in message


@pytest.mark.parametrize("point", ["wire.send.half", "wire.recv.before_ack"])
def test_death_at_a_point_is_never_success_on_the_other_side(bench, point):
    side = point.split(".")[1]
    env = env_fault(f"{point}:kill")
    receiver, port = bench.recv("null", "--reconnect", 1, env=env if side == "recv" else None)
    sender = bench.send("generate:20M", port, env=env if side == "send" else None)
    dead, other = (sender, receiver) if side == "send" else (receiver, sender)
    assert dead.finish() == -signal.SIGKILL
    assert other.error()[0] == "unreachable"


def test_source_hypervisor_that_never_connects_is_given_up(bench, tmp_path):
    receiver, port = bench.recv("null")
    sender = bench.send(f"unix:{tmp_path}/src.sock", port, "--timeout", 1)
    for side in (sender, receiver):
        kind, message = side.error()
        assert kind == "timeout" and "has not connected" in message


def test_destination_hypervisor_that_never_listens_is_given_up(bench, tmp_path):
    receiver, port = bench.recv(f"unix:{tmp_path}/dst.sock", "--timeout", 1)
    sender = bench.send("generate:1T", port)
    for side in (sender, receiver):
        kind, message = side.error()
        assert kind == "timeout" and f"{tmp_path}/dst.sock" in message


def test_nobody_at_the_other_end_is_told_at_once(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    kind, message = bench.send("generate:1M", port).error()
    assert kind == "unreachable" and f"lane to node2: cannot connect to 127.0.0.1:{port}" in message


@pytest.mark.parametrize("what,kind", [
    ("missing", "not-found"), ("empty", "certificate"), ("huge", "definition"),
    ("key of another", "certificate")])
def test_key_files_that_cannot_be_used_are_named(bench, tmp_path, what, kind):
    path = tmp_path / "node.key"
    if what != "missing":
        path.write_bytes(b"x" * (1 << 20) if what == "huge" else b"")
    if what == "key of another":
        path = bench.node2["key"]
    side = bench.start("send", {"cert": bench.node1["cert"], "key": path}, "node2", "--input",
                       "generate:1", "--connect", "127.0.0.1:1")
    found, message = side.error()
    assert found == kind and str(path) in message
