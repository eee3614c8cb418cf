"""Whom the data mover talks to: certificates, hellos and lanes that are refused while the right one
still gets in."""

import hashlib
import random
import socket
import ssl
import struct

import pytest

import wirelab
from wirelab import Authority, Peer, fixture_bench, fixture_files, frame, hello

FIXTURES = (fixture_bench, fixture_files)
MIB = 1 << 20


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
