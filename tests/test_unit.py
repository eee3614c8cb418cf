"""Runs the programs of tests/unit; each of their cmocka tests is one test here."""

import functools
import os
import re
import subprocess
from pathlib import Path

import pytest
from droverlab.paths import PROGRAMS

SOURCES = sorted((Path(__file__).parent / "unit").glob("test_*.c"))
TIMEOUT_S = 300


def declared(source):
    """Names of the tests in a source: its functions test_*(void **state). One that is in no
    table of tests does not compile (-Wunused-function)."""
    return re.findall(r"^static void (test_\w+)\(void \*\*", source.read_text(), re.MULTILINE)


@functools.lru_cache(maxsize=None)
def outcome(program):
    """One run of a program: its exit status, {test: None or what went wrong}, all its output."""
    run = subprocess.run([PROGRAMS / "tests" / "unit" / program], text=True, errors="replace",
                         env={**os.environ, "CMOCKA_MESSAGE_OUTPUT": "TAP"}, check=False,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S)
    results, failed = {}, None
    for line in run.stdout.splitlines():
        # What the code under test writes may stand before cmocka's words.
        match = re.search(r"(not ok|ok) \d+ - (\w+)$", line)
        if match:
            failed = match.group(2) if match.group(1) == "not ok" else None
            results[match.group(2)] = "" if failed else None
        elif failed and line.startswith("#"):
            results[failed] += line + "\n"
    return run.returncode, results, run.stdout


@pytest.mark.parametrize("program,name", [
    pytest.param(source.stem, name, id=f"{source.stem[5:]}-{name}")
    for source in SOURCES for name in declared(source)])
def test_unit(program, name):
    status, results, output = outcome(program)
    tail = output[-4000:]
    assert name in results, f"{program} did not come to {name}; it ended with {status}:\n{tail}"
    assert results[name] is None, f"{results[name]}\n{tail}"


@pytest.mark.parametrize("program", [source.stem for source in SOURCES if declared(source)])
def test_program_ends_well(program):
    status, _, output = outcome(program)
    assert status == 0, f"{program} ended with {status}:\n{output[-4000:]}"
