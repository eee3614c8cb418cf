"""The data mover and a peer that breaks the protocol's rules, on either side."""

import socket
import struct

import pytest

import wirelab
from wirelab import fixture_bench, fixture_files, frame, hello

FIXTURES = (fixture_bench, fixture_files)
NOTHING = wirelab.xxh3(b"")


@pytest.mark.parametrize("then,says", [
    (frame(wirelab.DATA, b"x", 19), "frame 19 came before its time"),
    (frame(wirelab.DATA, b"x", 1 << 63), "came before its time"),
    (frame(wirelab.DATA, b"x", 0), "DATA came with number 0"),
    (frame(wirelab.DATA, b"x", 1), "frame 1 is of type DATA"),
    (frame(wirelab.SETUP, wirelab.setup(), 2), "frame 2 is of type SETUP"),
    (frame(wirelab.DATA, b"", 2, 0xffffffff), "4294967295 bytes long"),
    (frame(wirelab.DATA, b"", 2, (1 << 20) - 15), "1048561 bytes long"),
    (frame(wirelab.RETURN, b"x", 2), "RETURN came"),
    (frame(wirelab.SETUP_ACK, b"x" * 12, 2), "SETUP_ACK came"),
    (frame(wirelab.END_ACK, b"x" * 16, 2), "END_ACK came"),
    (frame(wirelab.PAGES, bytes(8)), "PAGES came on lane 1"),
    (frame(wirelab.HELLO, hello(wirelab.SEND)), "second hello came"),
    (frame(64, b"x"), "unknown type 64"),
    (frame(14, b"x"), "unknown type 14"),
    (frame(wirelab.ACK, b"x"), "came with 1 bytes"),
    (frame(wirelab.ACK, struct.pack(">QQ", 9, 0)), "frame 9 has arrived, which was not sent"),
    (frame(wirelab.ACK, struct.pack(">QQ", 0, 1)), "1 bytes have arrived, which cannot be"),
    (frame(wirelab.BATCH, b"", 2), ""),
    (frame(wirelab.BATCH, bytes(16), 2), ""),
    (frame(wirelab.BATCH, b"\xff" * 4096, 2), ""),
    (frame(wirelab.END, b"x" * 15, 2), "came with 15 bytes"),
    (frame(wirelab.END, struct.pack(">QQ", 1, 0), 2), "arrived changed: 0 bytes here, 1 there"),
    (frame(wirelab.DATA, b"x", 2) + frame(wirelab.END, struct.pack(">QQ", 1, 0), 3),
     "arrived changed: 1 bytes here, 1 there"),
    (frame(wirelab.END, bytes(8) + NOTHING, 2) + frame(wirelab.DATA, b"x", 3),
     "after the end"),
    (frame(wirelab.END, bytes(8) + NOTHING, 2) + frame(wirelab.END, bytes(8) + NOTHING, 3),
     "after the end"),
])
def test_sender_that_breaks_the_rules_is_cut_off(bench, then, says):
    receiver, port = bench.recv("null")
    say, stream = bench.sender(port)
    stream.send(then)
    said = say.said()
    assert say.is_closed() and stream.is_closed()
    kind, message = receiver.error()
    assert says in message and said in message
    assert message.startswith(("lane from node1 (127.0.0.1:", "link from node1: "))
    assert kind == ("failed" if "changed" in says else "request")


@pytest.mark.parametrize("then,says", [
    (frame(wirelab.SETUP, wirelab.setup()), "SETUP came on lane 0"),
    (frame(wirelab.BATCH, bytes(16), 2), "BATCH came on lane 0"),
    (frame(wirelab.MISS, bytes(16)), "MISS came"),
    (frame(wirelab.READING, bytes(16)), "READING came"),
    (frame(wirelab.PAGES, b"x"), "without the number of their batch"),
])
def test_sender_that_says_what_is_not_said_on_lane_0_is_cut_off(bench, then, says):
    receiver, port = bench.recv("null")
    lane, _ = bench.sender(port)
    lane.send(then)
    assert lane.said() in receiver.error()[1]
    assert says in receiver.seen[-1]["message"]


@pytest.mark.parametrize("first", ids=range(12), argvalues=[
    frame(wirelab.SETUP, b""), frame(wirelab.SETUP, wirelab.setup()[:-1]),
    frame(wirelab.SETUP, wirelab.setup(cache=1)),
    frame(wirelab.SETUP, wirelab.setup(cache=(1 << 64) - 1)),
    frame(wirelab.SETUP, wirelab.setup(sources=b"\xff\xff")),
    frame(wirelab.SETUP, wirelab.setup(sources=b"\0\x01\xff\xff" + b"x" * 300)),
    frame(wirelab.SETUP, wirelab.setup(sources=bytes(100))),
    frame(wirelab.SETUP, wirelab.setup() + bytes(1 << 19)),
    frame(wirelab.BATCH, bytes(16)), frame(wirelab.DATA, b"x"),
    frame(wirelab.END, bytes(8) + NOTHING),
    frame(wirelab.BATCH, bytes(16), 2),
])
def test_stream_that_begins_wrongly_is_cut_off(bench, first):
    receiver, port = bench.recv("null")
    lane, stream = bench.lane(port), bench.lane(port, 1)
    stream.send(first)
    assert lane.said()
    kind, message = receiver.error()
    assert kind == "request" and message.startswith(("lane from node1 (", "link from node1: "))


def test_greatest_cache_that_can_be_asked_for_is_cut_to_the_receivers(bench):
    _, port = bench.recv("null", "--cache", "2M")
    lane, _ = bench.sender(port, wirelab.setup(cache=16 << 30))
    assert struct.unpack(">QI", lane.answer) == (2 << 20, 0)


@pytest.mark.parametrize("then,says", [
    (frame(wirelab.END_ACK, struct.pack(">QQ", 0, 0), 2), "which it has not"),
    (frame(wirelab.SETUP_ACK, bytes(12), 2), "second answer to the setup"),
    (frame(wirelab.ACK, struct.pack(">QQ", 1, 1 << 40)), "which cannot be"),
    (frame(wirelab.ACK, struct.pack(">QQ", 5, 0)), "frame 5 has arrived, which was not sent"),
    (frame(wirelab.DATA, b"x"), "DATA came"),
    (frame(wirelab.SETUP, b"x"), "SETUP came"),
    (frame(wirelab.BATCH, b"x"), "BATCH came"),
    (frame(wirelab.PAGES, b"x"), "PAGES came"),
    (frame(wirelab.RETURN, b"x", 12), "frame 12 came before its time"),
    (frame(wirelab.RETURN, b"", 2, 1 << 17), "were agreed"),
    (frame(wirelab.READING, bytes(15)), "READING of 15 bytes"),
    (frame(wirelab.MISS, b"x"), "without the number of their batch"),
    (frame(wirelab.ERROR, b"\x08no-spacethe disk is full"), "node2 says: the disk is full"),
    (frame(wirelab.ERROR, b"\x07timeoutit never came"), "node2 says: it never came"),
    (frame(wirelab.ERROR, b"\x0bunreachableit is gone"), "node2 says: it is gone"),
])
def test_receiver_that_breaks_the_rules_is_cut_off(bench, then, says):
    with socket.create_server(("127.0.0.1", 0)) as server:
        source, feed = socket.socketpair()
        sender = bench.send(f"fd:{source.fileno()}", server.getsockname()[1],
                            pass_fds=(source.fileno(),))
        lane, stream = bench.receiver(server)
        sender.wait_for("connected")
        lane.send(then)
        assert lane.is_closed() and stream.is_closed()
        kind, message = sender.error()
        assert says in message and message.startswith(("lane to node2 (127.0.0.1:", "link to node2: "))
        if then[4] != wirelab.ERROR:
            assert kind == "request"
        feed.close()
        source.close()


@pytest.mark.parametrize("answer", [
    b"", bytes(11), bytes(13), struct.pack(">QI", 1, 0), struct.pack(">QI", 1 << 40, 0),
    struct.pack(">QI", 1 << 30, 0)])
def test_answer_to_the_setup_that_makes_no_sense_is_refused(bench, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = bench.send("generate:1M", server.getsockname()[1])
        lane, _ = bench.receiver(server, answer)
        assert lane.said()
        kind, message = sender.error()
        assert kind == "request" and message.startswith("link to node2: ")


def test_receiver_of_small_frames_is_refused(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = bench.send("generate:1M", server.getsockname()[1])
        lane, _ = bench.answer(server, payload_max=65536)
        assert "takes frames of 65536 bytes" in lane.said()
        assert sender.error()[0] == "refused"


def test_receiver_that_acknowledges_another_stream_is_no_success(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = bench.send("generate:1000", server.getsockname()[1])
        lane, stream = bench.receiver(server)
        size, hashed = struct.unpack(">QQ", stream.receive_until(wirelab.END)[2])
        assert size == 1000
        lane.send(frame(wirelab.END_ACK, struct.pack(">QQ", size, hashed ^ 1), 2))
        assert "arrived changed" in sender.error()[1]
