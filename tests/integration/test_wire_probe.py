"""The data mover's measurements: a probe of the link, and what it says of a sample of pages."""

# pylint: disable=redefined-outer-name

import json
import os
import random
import subprocess

import pytest

from wirelab import LIMIT_S, WIRE, Bench

PAGE = 4096
USAGE = 2


@pytest.fixture
def bench(tmp_path):
    it = Bench(tmp_path)
    yield it
    it.end()


def test_a_probe_says_how_much_arrives_in_a_second(bench):
    receiver, port = bench.recv("null")
    sent = bench.send("probe:300", port, "--codec", "plain").end()
    received = receiver.end()
    assert 0 < sent["stream_bytes"] == received["stream_bytes"] <= 128 << 20
    assert 0 < sent["steady_least_bps"] <= sent["steady_most_bps"]
    assert sent["steady_bps"] > 0


def test_a_probe_keeps_to_a_bandwidth_limit(bench):
    receiver, port = bench.recv("null")
    sent = bench.send("probe:500", port, "--codec", "plain", "--bandwidth", "8M").end()
    receiver.end()
    # What it has measured is the limit, not what its first burst was.
    assert 4 << 20 < sent["steady_bps"] < 12 << 20, sent


def test_a_probe_ends_after_its_bytes(bench):
    receiver, port = bench.recv("null")
    sent = bench.send("probe:1000,3M", port, "--codec", "plain").end()
    receiver.end()
    assert sent["stream_bytes"] == 3 << 20


@pytest.mark.parametrize("ms", ["0", "1001", "", "x", "100,", "100,129M", "100,x", ",1M"])
def test_a_probe_has_a_length_that_makes_sense(bench, ms):
    assert bench.send(f"probe:{ms}", 1).error()[0] == "usage"


def sample(pages, count=None, *options):
    """(exit status, last status line)"""
    count = len(pages) // PAGE if count is None else count
    run = subprocess.run([WIRE, "sample", "--pages", str(count), *options], input=pages,
                         capture_output=True, check=False, timeout=LIMIT_S)
    return run.returncode, json.loads(run.stdout.splitlines()[-1])


def made_pages():
    """64 of zeros, 64 random, 128 of text."""
    chance = random.Random(1)
    text = b"".join(b"%09d and so on. " % chance.randrange(10**6) for _ in range(128 * PAGE // 20))
    return bytes(64 * PAGE) + chance.randbytes(64 * PAGE) + (text + bytes(PAGE))[:128 * PAGE]


def test_a_sample_says_what_pages_are_and_take():
    status, said = sample(made_pages())
    assert status == 0 and said["event"] == "sampled"
    first, last = said["levels"][0], said["levels"][-1]
    assert (first["level"], first["pages"]) == (1, 256)
    assert (first["zero"], first["data"], first["reference"]) == (64, 192, 0)
    # The random ones as they are, the text in less.
    assert 64 * PAGE < first["bytes"] < 150 * PAGE
    assert last["level"] > first["level"] and last["bytes"] < 192 * PAGE
    assert "changed" not in said


def test_a_sample_says_what_has_changed():
    before = made_pages()
    later = bytearray(before)
    later[100 * PAGE:110 * PAGE] = os.urandom(10 * PAGE)  # ten pages, whole
    for page in range(150, 170):
        later[page * PAGE + 8:page * PAGE + 16] = b"changed!"  # and twenty in a word
    status, said = sample(before + bytes(later), 256)
    assert status == 0
    whole, difference = said["changed"]["whole"], said["changed"]["difference"]
    assert whole["pages"] == difference["pages"] == 30
    assert whole["data"] == 30
    assert (difference["difference"], difference["data"]) == (20, 10)
    assert difference["bytes"] < whole["bytes"]


@pytest.mark.parametrize("options", [("--pages", "0"), ("--pages", "4097"), (),
                                     ("--pages", "1", "--source", "x"), ("--pages", "1", "more")])
def test_a_sample_s_options_are_checked(options):
    run = subprocess.run([WIRE, "sample", *options], input=bytes(PAGE), capture_output=True,
                         check=False, timeout=LIMIT_S)
    assert run.returncode == USAGE, run


def test_a_sample_that_is_too_short_is_an_error():
    status, said = sample(bytes(3 * PAGE + 1), 4)
    assert status != 0 and said["event"] == "error" and "3 pages" in said["message"]
