"""bhyve's stream through drover-wire: a dialogue of two ends that see each other unmodified."""

# pylint: disable=redefined-outer-name

import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

import bhyvepeer
import wirelab

PAGES = 3000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return wirelab.Bench(tmp_path_factory.mktemp("wire"))


@pytest.fixture
def bench(files):
    yield files
    files.end()


class Carried:
    """One migration from end to end."""

    def __init__(self, bench, guest, live, *options, pages=None, model=b"a CPU"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            receiver, port = bench.recv(f"tcp:127.0.0.1:{server.getsockname()[1]}")
            sender = bench.send("tcp:127.0.0.1:0", port, *options)
            source = bhyvepeer.Source(bhyvepeer.connect(sender.wait_for("listening")["port"]))
            destination = bhyvepeer.Destination(server.accept()[0])
        with ThreadPoolExecutor(2) as threads:
            sent = threads.submit(source.migrate, guest, live)
            taken = threads.submit(destination.receive, pages or len(guest.pages), model)
            self.sent, self.taken = sent.result(), taken.result()
            source.connection.close()
        self.source, self.destination = source, destination
        self.end = sender.end()
        assert receiver.end()["stream_bytes"] == self.end["stream_bytes"] == len(source.sent)
        assert source.sent == destination.received and destination.sent == source.received
        destination.connection.close()


@pytest.mark.parametrize("options", [("--parser", "bhyve"), (), ("--lanes", "4", "--cache", "0")],
                         ids=["bhyve", "auto", "lanes"])
def test_warm_guest_arrives_whole(bench, options):
    guest = bhyvepeer.Guest(PAGES, lowmem=2000)
    carried = Carried(bench, guest, False, *options)
    assert carried.sent and carried.taken and carried.destination.pages == guest.pages
    assert carried.end["parser"] == "bhyve" and carried.end["unknown_bytes"] == 0
    pages = carried.end["pages"]
    assert sum(pages.values()) > 0.95 * PAGES and pages["zero"] > 0.3 * PAGES


def test_live_rounds_go_as_differences(bench):
    guest = bhyvepeer.Guest(PAGES)
    carried = Carried(bench, guest, True, "--memory", str(PAGES * bhyvepeer.PAGE))
    assert carried.sent and carried.taken
    assert carried.end["unknown_bytes"] == 0
    assert carried.end["pages"]["difference"] > 0.2 * PAGES
    assert sum(carried.end["pages"].values()) > 1.9 * PAGES


def test_pages_of_a_guest_whose_memory_is_not_told_go_unknown(bench):
    carried = Carried(bench, bhyvepeer.Guest(PAGES), True)
    assert carried.sent and carried.taken
    assert sum(carried.end["pages"].values()) == 0
    assert carried.end["unknown_bytes"] > PAGES * bhyvepeer.PAGE


@pytest.mark.parametrize("pages", [1, PAGES - 1, PAGES + 1, 10 * PAGES])
def test_memory_told_wrongly_holds_nothing_up(bench, pages):
    carried = Carried(bench, bhyvepeer.Guest(PAGES), True, "--memory",
                      str(pages * bhyvepeer.PAGE))
    assert carried.sent and carried.taken


def test_half_a_page_is_not_kept_back_when_nothing_follows(bench):
    """As when the parser takes something for a page that is none, and its source waits."""
    page = bhyvepeer.PAGE
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver, port = bench.recv(f"tcp:127.0.0.1:{server.getsockname()[1]}")
        sender = bench.send("tcp:127.0.0.1:0", port)
        source = bhyvepeer.Source(bhyvepeer.connect(sender.wait_for("listening")["port"]))
        destination = bhyvepeer.Destination(server.accept()[0])
    head = struct.pack("<QII64s256s256sQi", 520, bhyvepeer.SPECS, 0, b"", b"amd64", b"", page, 0)
    for part in (head, struct.pack("<QQ", 3 * page, 0), bytes(page + 100), b"x" * 1000):
        source.say(part)
        assert destination.hear(len(part)) == part
    source.say(bytes(2 * page - 1100))
    source.connection.close()
    assert destination.hear(2 * page - 1100) == bytes(2 * page - 1100)
    end = sender.end()
    assert end["pages"]["zero"] == 2 and end["unknown_bytes"] == 0
    assert receiver.end()["stream_bytes"] == end["stream_bytes"]
    destination.connection.close()


def test_destination_that_refuses_is_heard(bench):
    carried = Carried(bench, bhyvepeer.Guest(10), False, model=b"another CPU")
    assert not carried.sent and not carried.taken
    assert carried.source.received == b"\1" + bytes(7)


def test_destination_with_other_memory_is_heard(bench):
    carried = Carried(bench, bhyvepeer.Guest(10), False, pages=11)
    assert not carried.sent and not carried.taken
    assert carried.source.received == bytes(8) + b"\1" + bytes(3)


def test_destination_that_listens_late_is_waited_for(bench):
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        receiver, port = bench.recv(f"tcp:127.0.0.1:{later.getsockname()[1]}")
        sender = bench.send("generate:1M", port)
        receiver.wait_for("connected")
        later.listen(1)
        with later.accept()[0] as destination:
            received = 0
            while data := destination.recv(1 << 20):
                received += len(data)
    assert received == sender.end()["stream_bytes"] == receiver.end()["stream_bytes"]


def test_memory_that_no_guest_has_is_refused(bench):
    for memory in ("1000", "16777216G"):
        sender = bench.send("generate:1M", 1, "--memory", memory)
        assert sender.finish() == 2 and "--memory" in sender.stderr
