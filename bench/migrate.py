#!/usr/bin/python3
"""Moves of a running guest: drover against QEMU's own migration, over the same link, in one run.

usage: bench/migrate.py [--case CASE,...] [--config CONFIG,...] [--runs N] [--rate MBIT]

Cases: idle      the guest does nothing
       sparse    256 MiB of text-like pages, 50 MB/s of them changed in a few words each
       random    512 MiB that cannot be compressed, not changed
       each also with -unlimited: the link has no rate limit; `all` for the six
Configurations: default (QEMU's own, as libvirt sets it), multifd-zstd, xbzrle, postcopy, tls
       (default, encrypted as drover is), drover;
       `all` for these.

The debian guest (1 vCPU, 1 GiB) goes from node1 to node2 of the lab and back. One boot serves all
of QEMU's configurations of a case, which take turns, and another boot those of drover. Measured:
  total_s   from the command, which starts the destination's QEMU too, until the guest runs there;
            drover's has the end of the source's copy in it, too
  estimate  (drover) the range of the total time that was estimated before, and whether it held
  stream_s  from the first byte of the hypervisor's stream until the guest runs there
  wire_mb   what left the source through the migration link, in 10^6 bytes, with all headers
  gap_ms    longest time without an answer that a client sees who sends a datagram a millisecond
  cpu_s     processor time of both QEMUs, and of drover-wire on both nodes, during the move; `rest`
            is all else on the machine, steal included: when it is large, something disturbs
Prints medians, ratios and targets; writes all runs to build/bench/results.json, a plot of them to
build/bench/results.svg. A move that fails or takes longer than 60 s is a result too: its status."""

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from droverlab.paths import BUILD, LabError  # noqa: E402
from droverlab.vm import Probe  # noqa: E402
from moves import memory, plot, report  # noqa: E402
from moves.guests import ADDRESS, CONFIGS, KINDS, MEMORY_MIB, MoveFailed, Timeout  # noqa: E402
from moves.meter import Meter  # noqa: E402

LIMIT_S = 60
AFTER_MOVE_S = 1
TOUCH_MIB = MEMORY_MIB + 512  # what a move takes for its first time: the guest's, caches

# What the guest does meanwhile: commands to its test program.
WORK = {
    "idle": [],
    "sparse": [("fill", 256, "text"), ("dirty", 50, "words")],
    "random": [("fill", 512, "random")],
}
UNLIMITED = "-unlimited"
CASES = [*WORK, *(case + UNLIMITED for case in WORK)]


def chosen(text, known, what):
    """The names in a list with commas."""
    if text == "all":
        return list(known)
    names = text.split(",")
    for name in names:
        if name not in known:
            raise LabError(f"There is no {what} {name}; there are: {', '.join(known)}.")
    return names


def measure(guest, config):
    """One move, with a client outside: its figures."""
    source, destination = guest.at, guest.to
    guest.foresee(config, LIMIT_S)
    with Probe(guest.lab, ADDRESS) as probe:
        before = source.wire_bytes()
        memory.touch(TOUCH_MIB)
        with Meter(source, destination) as meter:
            figures = guest.move(config, LIMIT_S)
        figures["wire_mb"] = (source.wire_bytes() - before) / 1e6
        guest.moved()
        time.sleep(AFTER_MOVE_S)
        seen = probe.end()
    if not seen["tcp_survived"]:
        raise MoveFailed(f"the guest's TCP connection did not survive: {seen['tcp_error']}")
    figures = {key: round(value, 3) if isinstance(value, float) else value
               for key, value in figures.items()}
    return {**figures, "gap_ms": seen["longest_gap_ms"], "cpu_s": meter.seconds()}


def attempt(guest, config):
    """measure(), or how it failed."""
    try:
        return {"status": "ok", **measure(guest, config)}
    except Timeout as error:
        return {"status": "timeout", "message": str(error)}
    except LabError as error:
        return {"status": "failed", "message": str(error)}


class Series:
    """The runs of one kind of guest in one kind of work, with every link that was asked for."""

    def __init__(self, kind, work, cases, configs, runs, rate):
        self.kind, self.work, self.cases, self.configs = kind, work, cases, configs
        self.runs, self.rate, self.guest, self.notes = runs, rate, None, {}

    def plan(self):
        return [(case, config, number) for case in self.cases
                for number in range(1, self.runs + 1) for config in self.configs]

    def _ready(self, rate):
        """The guest, booted again when it did not survive what was last done to it."""
        if self.guest and not self.guest.lives():
            self.end()
        if not self.guest:
            self.guest = self.kind(WORK[self.work])
            self.notes.update(self.guest.notes)
        self.guest.shape(rate)
        return self.guest

    def run(self):
        """Yields every run as an object."""
        for case, config, number in self.plan():
            rate = None if case.endswith(UNLIMITED) else self.rate
            result = {"case": case, "config": config, "run": number, "rate_mbit": rate}
            try:
                result.update(attempt(self._ready(rate), config))
            except LabError as error:
                result.update(status="failed", message=f"the guest cannot be had: {error}")
            yield result

    def check(self):
        """What is wrong with the guest's memory after all that, if anything."""
        try:
            if self.guest:
                self.guest.check_memory()
        except LabError as error:
            return f"{self.work}, {', '.join(self.configs)}: {error}"
        return None

    def end(self):
        if self.guest:
            self.guest.end()
            self.guest = None


def all_series(cases, configs, runs, rate):
    for work in WORK:
        links = [case for case in cases if case.removesuffix(UNLIMITED) == work]
        for kind in KINDS:
            own = [config for config in configs if CONFIGS[config] is kind]
            if links and own:
                yield Series(kind, work, links, own, runs, rate)


def show(run):
    figures = {key: run[key] for key in (*report.FIGURES, "cpu_s") if key in run}
    print(f"  {run['case']} {run['config']} {run['run']}: {run['status']} "
          f"{figures or run['message']}", flush=True)


def machine():
    return {"cpus": os.cpu_count(), "kernel": platform.release(), "machine": platform.machine(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def write(out, notes, runs, problems):
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**machine(), **notes, "problems": problems, "runs": runs}, indent=1)
    part = out.with_suffix(".part")
    part.write_text(text + "\n")
    part.rename(out)


def bench(cases, configs, runs, rate, out):
    """All runs; the file is complete after each series."""
    results, problems, notes = [], [], {}
    for series in all_series(cases, configs, runs, rate):
        try:
            for run in series.run():
                results.append(run)
                show(run)
            problem = series.check()
        finally:
            series.end()
        problems += [problem] if problem else []
        notes.update(series.notes)
        write(out, notes, results, problems)
    return results, problems, notes


def parse(arguments):
    parser = argparse.ArgumentParser(usage=__doc__.strip(), add_help=True)
    parser.add_argument("--case", default="all")
    parser.add_argument("--config", default="all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", default="1000")
    args = parser.parse_args(arguments)
    args.cases = chosen(args.case, CASES, "case")
    args.configs = chosen(args.config, CONFIGS, "configuration")
    if args.rate in ("0", "unlimited"):
        args.cases = list(dict.fromkeys(case.removesuffix(UNLIMITED) + UNLIMITED
                                        for case in args.cases))
        args.rate = "0"
    if not args.rate.isdigit() or args.runs < 1:
        raise LabError("--rate is a number of Mbit/s, 0 or unlimited; --runs is at least 1.")
    args.rate = int(args.rate) or None
    return args


def main():
    args = parse(sys.argv[1:])
    out = BUILD / "bench" / "results.json"
    runs, problems, notes = bench(args.cases, args.configs, args.runs, args.rate, out)
    report.print_medians(runs)
    report.print_comparisons(runs)
    print()
    report.print_estimates(runs)
    report.print_failures(runs)
    if notes.get("base_image_indexed") is False:
        print("The base image has no index: this drover does not make one.")
    for problem in problems:
        print(f"WRONG: {problem}")
    image = out.with_suffix(".svg")
    plot.write(runs, image)
    print(f"all runs: {out}; plot: {image}")
    return 1 if problems else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench/migrate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("bench/migrate.py: interrupted")
