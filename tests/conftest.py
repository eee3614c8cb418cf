"""Paths for all tests, and the closing line that says how many passed."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
sys.dont_write_bytecode = True

# A shell that started us in the background has it ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_outcome = {}


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
