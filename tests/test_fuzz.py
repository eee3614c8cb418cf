"""Runs each fuzzer of tests/fuzz on all its seeds, and for some seconds on what it makes of them; `make
fuzz` runs them for longer."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import fuzz  # noqa: E402

SECONDS = 10
# One whose states are few.
OTHERS = {"bhyve": 5}


@pytest.fixture(scope="module", name="fuzzers")
def fixture_fuzzers():
    """All of them, at work: two at once, while the tests wait for one after the other."""
    fuzz.build(fuzz.names())
    return fuzz.start(fuzz.names(), SECONDS, OTHERS)


@pytest.mark.parametrize("name", fuzz.names())
def test_fuzzer_finds_nothing(fuzzers, name):
    print(fuzzers[name].result())
