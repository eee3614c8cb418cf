#!/usr/bin/python3
"""Tries every cell of the fault matrix (cells.py) on real guests, and prints what became of each,
and counts. Ends with 1 when there was a violation.

usage: tests/faults/run.py [--hypervisor qemu|bhyve] [--jobs N] [--core] [--only REGEX] [--list]"""

import argparse
import collections
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "lab"), str(ROOT / "tests" / "integration")]
sys.dont_write_bytecode = True

from droverlab import guests  # noqa: E402
from droverlab.lab import Lab  # noqa: E402
from droverlab.paths import BUILD  # noqa: E402

import bhyvelab  # noqa: E402
import cells  # noqa: E402
from faultlab import BhyveFaultLab, FaultLab, Violation, keep_logs  # noqa: E402

POOL_MIB = 64
LOGS = BUILD / "faults"


class Labs:
    """One lab at a time; after a violation a new one."""

    def __init__(self, number, hypervisor="qemu"):
        self.lab = Lab(BUILD / "test" / f"faults{number}")
        self.bench, self.hypervisor = None, hypervisor

    def _make(self, _, **options):
        self.lab.up(**options)
        return self.lab

    def run(self, cell):
        if not self.bench:
            self.lab.down()
            if self.hypervisor == "bhyve":
                self.bench = BhyveFaultLab(bhyvelab.bhyve_lab(self._make, pool_mib=POOL_MIB))
            else:
                self.lab.up(nodes=2, pool_mib=POOL_MIB)
                self.bench = FaultLab(self.lab)
        try:
            return self.bench.run(cell)
        except BaseException:
            keep_logs(self.lab, LOGS / re.sub(r"\W+", "-", str(cell)).strip("-"))
            self.bench = None
            raise

    def down(self):
        self.bench = None
        self.lab.down()


def _work(number, hypervisor, wanted, results):
    # Ctrl-C ends this one, too: by the parent's SIGTERM, after which the lab is taken down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    labs = Labs(number, hypervisor)
    try:
        while True:
            cell = wanted.get()
            if cell is None:
                return
            begin = time.monotonic()
            try:
                found, bad = labs.run(cell), ""
            except Violation as violation:
                found, bad = "VIOLATION", str(violation)
            except Exception:  # pylint: disable=broad-except
                found, bad = "NOT JUDGED", traceback.format_exc()
            results.put((cell, found, bad, time.monotonic() - begin))
    finally:
        labs.down()
        results.put(None)


def try_all(wanted, hypervisor, jobs):
    """Yields (cell, what became of it, what is wrong, seconds) as they end."""
    queue, results = multiprocessing.Queue(), multiprocessing.Queue()
    for cell in [*wanted, *[None] * jobs]:
        queue.put(cell)
    workers = [multiprocessing.Process(target=_work, args=(number, hypervisor, queue, results))
               for number in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        left = jobs
        while left:
            result = results.get()
            if result is None:
                left -= 1
            else:
                yield result
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            worker.join()


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--hypervisor", choices=("qemu", "bhyve"), default="qemu")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--core", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    every = cells.all_cells(cells.BHYVE_POINTS if options.hypervisor == "bhyve" else cells.POINTS)
    wanted = [cell for cell in (cells.core_cells() if options.core else every)
              if re.search(options.only, str(cell))]
    if not wanted:
        sys.exit(f"tests/faults/run.py: no cell has {options.only!r} in its name; --list shows them")
    if options.list:
        print(*wanted, sep="\n")
        return 0
    if os.geteuid() != 0:
        sys.exit("tests/faults/run.py: the lab has to be made as root")
    guests.guest("tiny")
    counts, begin = collections.Counter(), time.monotonic()
    for number, (cell, found, bad, seconds) in enumerate(try_all(wanted, options.hypervisor, options.jobs), 1):
        counts[found if not found.startswith("started") else "started again"] += 1
        print(f"{number:4}/{len(wanted)} {found:24} {seconds:6.1f} s  {cell}", flush=True)
        if bad:
            print("     " + bad.strip().replace("\n", "\n     "), flush=True)
    wrong = counts["VIOLATION"] + counts["NOT JUDGED"]
    print(f"\n{sum(counts.values())} cells in {time.monotonic() - begin:.0f} s: " +
          ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return 1 if wrong or sum(counts.values()) != len(wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
