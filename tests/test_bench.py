"""What bench/migrate.py makes of its runs; the runs themselves are `make bench`."""

import importlib.util
import sys
from pathlib import Path

import pytest
from droverlab.paths import LabError

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.insert(0, str(BENCH))

from moves import report  # noqa: E402

_spec = importlib.util.spec_from_file_location("bench_migrate", BENCH / "migrate.py")
migrate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(migrate)


def runs(case, config, *wires, **figures):
    """One run for each of the bytes on the wire; None: one that failed."""
    common = {"case": case, "config": config}
    good = {"status": "ok", "total_s": 1.0, "stream_s": 0.9, "gap_ms": 100.0,
            "cpu_s": {"send": 0.1}, **figures}
    bad = {"status": "timeout", "message": "not moved within 60 s"}
    return [{**common, "run": number, **({**good, "wire_mb": wire} if wire else bad)}
            for number, wire in enumerate(wires, 1)]


def test_failed_runs_are_counted_and_are_in_no_median(capsys):
    group = runs("idle", "drover", 30.0, None, 10.0, 20.0)
    assert report.median(group, "wire_mb") == 20.0
    report.print_medians(group)
    report.print_failures(group)
    said = capsys.readouterr().out
    assert " 3/4 " in said
    assert "idle drover run 2: timeout: not moved within 60 s" in said


def test_ratios_stand_beside_their_targets(capsys):
    report.print_comparisons(runs("idle", "default", 180.0, total_s=2.0, gap_ms=300.0) +
                             runs("idle", "drover", 18.0, total_s=1.0, gap_ms=60.0))
    said = capsys.readouterr().out
    assert "wire 1/10.00 (at most 1/9.00: met)" in said
    assert "total 1/2.00 (at most 1/2.50: not met), aim 1/4.00" in said
    assert "gap 1/5.00 (at most 1/4.00: met)" in said


def test_random_pages_are_held_against_what_was_not_referenced(capsys):
    report.print_comparisons(
        runs("random", "default", 700.0) +
        runs("random", "drover", 605.0, report={"pages": {"reference": 24415}}))
    assert "wire 1.01 (at most 1.01: met)" in capsys.readouterr().out


def test_estimates_that_held_are_counted(capsys):
    def estimate(low, high, held):
        return runs("idle", "drover", 20.0, estimate={
            "total_ms": [low, high], "inside": held, "actual_ms": 1})[0]

    report.print_estimates([estimate(500, 1000, True), estimate(500, 1500, False),
                            estimate(500, None, True)] + runs("idle", "default", 180.0))
    said = capsys.readouterr().out
    assert said == ("estimates of the total time: 1 of 3 inside; "
                    "the high end is 2.5 times the low one\n")
    report.print_estimates(runs("idle", "default", 180.0))
    assert capsys.readouterr().out == ""


def test_gap_without_a_limit_may_be_a_little_longer(capsys):
    report.print_comparisons(runs("idle-unlimited", "default", 200.0, gap_ms=50.0) +
                             runs("idle-unlimited", "drover", 200.0, gap_ms=61.0))
    assert "gap +11 ms (at most +10 ms: not met)" in capsys.readouterr().out


def test_comparison_with_what_never_succeeded_says_so(capsys):
    report.print_comparisons(runs("sparse", "default", None) + runs("sparse", "drover", 5.0))
    assert "cannot be compared" in capsys.readouterr().out


def test_no_rate_makes_every_case_unlimited_once():
    args = migrate.parse(["--case", "idle,idle-unlimited,random", "--rate", "0"])
    assert args.cases == ["idle-unlimited", "random-unlimited"]
    assert args.rate is None


def test_unknown_names_are_told_with_those_that_there_are():
    with pytest.raises(LabError, match="no case idl; there are: idle, sparse"):
        migrate.parse(["--case", "idl"])
