"""The data mover as a program: what it carries, whom it talks to, and how it fails."""

# pylint: disable=redefined-outer-name

import hashlib
import os
import random
import signal
import socket
import ssl
import struct
import threading

import pytest

import wirelab
from wirelab import Authority, Bench, Peer, frame, hello, in_thread, read_all

MIB = 1 << 20
NOTHING = wirelab.xxh3(b"")
STEP = 0x9E3779B97F4A7C15


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("wire"))


@pytest.fixture
def bench(files):
    yield files
    files.end()


@pytest.fixture
def listening(tmp_path):
    """A Unix socket that listens, as a hypervisor's does, and its path."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(wirelab.LIMIT_S)
        server.bind(str(tmp_path / "dst.sock"))
        server.listen(1)
        yield server, tmp_path / "dst.sock"


def env_fault(what):
    return {**os.environ, "DROVER_FAULT": what}


# What is carried


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


# Who is talked to


def assert_right_one_still_gets_in(bench, receiver, port):
    assert bench.send("generate:1M", port).end()["stream_bytes"] == MIB
    assert receiver.end()["stream_bytes"] == MIB


def test_certificate_of_another_cluster_is_refused_by_both(bench, tmp_path):
    other = Authority(tmp_path / "other")
    stranger = other.node("node1")
    receiver, port = bench.recv("null")
    sender = bench.send("generate:1M", port, node=stranger)
    kind, message = sender.error()
    assert kind == "certificate" and "refused this node's certificate" in message
    assert f"lane to node2 (127.0.0.1:{port}): " in message
    refused = receiver.wait_for("refused")
    assert refused["kind"] == "certificate" and "of another cluster" in refused["message"]
    # And the other way round: a receiver that cannot be trusted gets nothing.
    sender = bench.send("generate:1M", port, node=stranger, ca=other.ca)
    kind, message = sender.error()
    assert (kind, message) == ("certificate", f"lane to node2 (127.0.0.1:{port}): "
                               "its certificate is of another cluster")
    receiver.wait_for("refused")
    assert_right_one_still_gets_in(bench, receiver, port)


@pytest.mark.parametrize("made,says", [
    ({"name": "node3"}, "that of node3, not of node1"),
    ({"name": "node1", "dns": "node3"}, "lacks the DNS name node1"),
    ({"name": "node1", "dns": "*.node1"}, "lacks the DNS name node1"),
    ({"name": "node3", "dns": "node1"}, "that of node3, not of node1"),
    ({"name": "node1", "subject": "/CN=node1/CN=node3"}, "names no single node"),
    ({"name": "node1", "usage": "serverAuth"}, "not valid"),
])
def test_certificate_that_is_not_that_nodes_is_refused(bench, made, says):
    receiver, port = bench.recv("null")
    sender = bench.send("generate:1M", port, node=bench.authority.node(**made))
    assert sender.error()[0] == "certificate"
    refused = receiver.wait_for("refused")
    assert refused["kind"] == "certificate" and says in refused["message"]
    assert_right_one_still_gets_in(bench, receiver, port)


def test_receiver_with_another_nodes_certificate_gets_nothing(bench):
    receiver, port = bench.recv("null", "--timeout", 1, node=bench.authority.node("node3"))
    kind, message = bench.send("generate:1M", port).error()
    assert kind == "certificate" and "that of node3, not of node2" in message
    kind, message = receiver.error()
    assert kind == "timeout" and "node1 has not connected; the last one that was" in message


def test_earlier_certificate_of_the_same_name_is_refused_by_fingerprint(bench):
    with open(bench.authority.node("node1")["cert"], encoding="ascii") as pem:
        der = ssl.PEM_cert_to_DER_cert(pem.read())
    with open(bench.node1["cert"], encoding="ascii") as pem:
        mine = ssl.PEM_cert_to_DER_cert(pem.read())
    receiver, port = bench.recv("null", "--peer-fingerprint", hashlib.sha256(der).hexdigest())
    assert bench.send("generate:1M", port).error()[0] == "certificate"
    assert "not the one that node1 has now" in receiver.wait_for("refused")["message"]
    receiver, port = bench.recv("null", "--peer-fingerprint", hashlib.sha256(mine).hexdigest())
    assert_right_one_still_gets_in(bench, receiver, port)


def test_client_without_a_certificate_is_refused(bench):
    receiver, port = bench.recv("null")
    peer = Peer.connect(port, bench.authority.context(None))
    assert peer.is_closed()
    assert receiver.wait_for("refused")["kind"] == "certificate"
    assert_right_one_still_gets_in(bench, receiver, port)


def test_tls_1_2_is_refused(bench):
    receiver, port = bench.recv("null")
    context = bench.authority.context(bench.node1)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        Peer.connect(port, context)
    assert "TLS 1.3" in receiver.wait_for("refused")["message"]
    assert_right_one_still_gets_in(bench, receiver, port)


def test_garbage_and_silence_do_not_keep_the_right_one_out(bench):
    receiver, port = bench.recv("null")
    guests = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for i, guest in enumerate(guests[:10]):
        guest.sendall(random.randbytes(1 + 100 * i) if i % 2 else b"GET / HTTP/1.0\r\n\r\n")
    guests[10].close()
    assert_right_one_still_gets_in(bench, receiver, port)
    for guest in guests:
        guest.close()


def test_another_migration_is_refused_and_both_say_so(bench):
    receiver, port = bench.recv("null")
    kind, message = bench.send("generate:1M", port, migration="m2").error()
    assert kind == "refused" and "node2 says: " in message and "another migration" in message
    assert "another migration" in receiver.wait_for("refused")["message"]
    assert_right_one_still_gets_in(bench, receiver, port)


@pytest.mark.parametrize("first,says", [
    (frame(wirelab.DATA, b"x"), "DATA came before the hello"),
    (frame(wirelab.HELLO, length=1 << 31), "bytes long"),
    (frame(wirelab.HELLO, length=70000), "were agreed"),
    (frame(33), "unknown type 33"),
    (frame(wirelab.HELLO, hello(wirelab.SEND)[:20]), "wrong form"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, magic=b"DRVX")), "not drover-wire's"),
    (frame(wirelab.HELLO, hello(wirelab.RECV)), "both sides want to receive"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, oldest=2, newest=9)), "versions 2 to 9"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, next=7)), "frame 6 has arrived"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, lanes=0)), "lane 0 of 0"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, lanes=200)), "lane 0 of 200"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, lane=2)), "lane 2 of 1"),
    (frame(wirelab.HELLO, hello(wirelab.SEND, window=0)), "impossible limits"),
    (frame(wirelab.ERROR, b"\x07refusedno more"), "node1 says: no more"),
])
def test_wrong_hello_is_refused(bench, first, says):
    receiver, port = bench.recv("null")
    peer = bench.peer(port)
    peer.send(first)
    assert peer.is_closed()
    assert says in receiver.wait_for("refused")["message"]
    assert_right_one_still_gets_in(bench, receiver, port)


def test_lane_of_another_process_is_refused(bench):
    receiver, port = bench.recv("null")
    peer, _ = bench.sender(port)
    receiver.wait_for("connected")
    kind, message = bench.send("generate:1M", port).error()
    assert kind == "refused" and "its lanes from another process already" in message
    for wrong in ({"session": 2}, {"session": 1, "lanes": 2}):
        other = bench.peer(port)
        other.send(frame(wirelab.HELLO, hello(wirelab.SEND, **wrong)))
        assert "process already" in (said := other.said()) or "2 lanes now, 1 before" in said
    peer.send(frame(wirelab.ERROR, b"\x09cancelledenough"))
    assert receiver.error() == ("cancelled", receiver.seen[-1]["message"])


def test_lane_of_the_same_number_takes_the_place_of_the_first(bench, tmp_path):
    receiver, port = bench.recv(f"file:{tmp_path}/out")
    first, stream = bench.sender(port)
    stream.send(frame(wirelab.DATA, b"one ", 2))
    second = bench.lane(port)
    assert first.is_closed()
    assert receiver.wait_for("reconnected")["lane"] == 0
    again = bench.lane(port, 1)
    assert stream.is_closed()
    # What was sent before may come again, and in any order.
    hashed = wirelab.xxh3(b"one two ")
    again.send(frame(wirelab.END, struct.pack(">Q", 8) + hashed, 4)
               + frame(wirelab.DATA, b"two ", 3) + frame(wirelab.DATA, b"one ", 2))
    number, payload = second.receive_until(wirelab.END_ACK)[1:]
    assert (number, payload) == (2, struct.pack(">Q", 8) + hashed)
    second.send(frame(wirelab.ACK, struct.pack(">QQ", 2, 0)))
    assert receiver.end()["reconnections"] == 2
    assert (tmp_path / "out").read_bytes() == b"one two "


# How it fails


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
