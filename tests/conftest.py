"""Paths for all tests, what may run side by side, and the closing line that says how many passed.
"""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
sys.dont_write_bytecode = True

# A shell that started us in the background has it ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_outcome = {}

# Modules of slow tests: shared out so many at a time, each time with a lab of their own. Longest
# first.
PARTS = {"test_postcopy": 7, "test_faults": 7, "test_migrate": 8, "test_migrate_faults": 8,
         "test_wire_cut": 6, "test_races": 6, "test_recover": 4, "test_hang": 3}


def _group(item, number):
    """Tests of one group run one after the other: those of a module, which share a lab, and the
    unit tests of one program, which one run of it tells."""
    module = item.module.__name__
    if module in PARTS:
        return f"{module}-{number // PARTS[module]}"
    if module == "test_unit":
        return f"unit-{item.callspec.params['program']}"
    return module


def _length(item):
    module = item.module.__name__
    slow = module == "test_unit" and "hv_" in item.callspec.params["program"]
    return -1 if slow or module == "test_fuzz" else list(PARTS).index(module) \
        if module in PARTS else len(PARTS)


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the groups
def pytest_collection_modifyitems(items):
    counts = {}
    for item in items:
        module = item.module.__name__
        counts[module] = counts.get(module, -1) + 1
        item.add_marker(pytest.mark.xdist_group(_group(item, counts[module])))
    items.sort(key=_length)


def pytest_runtest_logreport(report):
    # A test that fails in its setup or teardown has failed; skipped ones are neither.
    if report.failed:
        _outcome[report.nodeid] = "failed"
    elif report.when == "call" and report.passed:
        _outcome.setdefault(report.nodeid, "passed")


def pytest_collectreport(report):
    if report.failed:
        _outcome[report.nodeid] = "failed"


def pytest_unconfigure(config):
    if config.option.collectonly:
        return
    outcomes = list(_outcome.values())
    print(f"{outcomes.count('passed')} passed, {outcomes.count('failed')} failed")
