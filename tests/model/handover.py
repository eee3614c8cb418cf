#!/usr/bin/python3
"""Searches docs/handover.pml with spin, and prints for each search what it was, how many states
there are, how deep they lie, what was found and how long it took. `make model` runs all of them,
`make check` those that take seconds (tests/test_model.py).

usage: tests/model/handover.py [--quick]"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).resolve().parents[2] / "docs" / "handover.pml"
DEPTH = 100000
MEMORY_MIB = 4096
TIMEOUT_S = 1200

# What an error says, in the words of the model's assertions as spin prints them.
TWO_RUN = REACHED_IT = "violated 0"
GOES_ON_THOUGH_CLAIMED = "!((owner[epoch]=="
NONE_RUNS = "!=(hvB=="
OLD_RUNS = "!(ranB)"
RUNS_UNOWNED = "||(owner[epoch]=="
A_WAITS = "(stepA=="
B_WAITS = "(stepB=="
ENDS_WHAT_IS_NEEDED = "!(wholeB)"
NEVER_ENDS = "non-progress cycle"
ENDS_ITS_OWN = "(hvA==10)|| !((owner[epoch]=="


@dataclass(frozen=True)
class Search:
    """What spin is to look for. Faults: how often each may happen in one run."""
    says: str
    crashes: int = 1
    lost: int = 1
    breaks: int = 0
    outages: int = 0
    define: str = ""
    error: str = ""  # what must be found, where something must
    partial: bool = False  # by bitstate hashing: not every state is seen
    cycles: bool = False  # for ways that never end, where each process that can go on does

    @property
    def defines(self):
        named = {"CRASHES": self.crashes, "LOST": self.lost, "BREAKS": self.breaks,
                 "OUTAGES": self.outages}
        return [*(f"-D{name}={value}" for name, value in named.items()),
                *(f"-D{word}" for word in self.define.split())]


@dataclass(frozen=True)
class Found:
    errors: int
    states: int
    depth: int
    what: str
    complete: bool
    seconds: float


# No error may be found in these.
HOLDS = [
    Search("nothing goes wrong", crashes=0, lost=0),
    Search("one crash and one lost message"),
    Search("one crash and one lost message; a node that crashes stays dead",
           define="NODES_STAY_DEAD"),
    Search("a stream that breaks, or a guest that cannot be let run, and a lost message",
           crashes=0, breaks=1),
    Search("a stream that breaks, a pool that goes away, and a lost message", crashes=0, breaks=1,
           outages=1),
    Search("one crash and a pool that goes away", lost=0, outages=1),
    Search("one crash, and a stream that breaks or a guest that cannot be let run", lost=0,
           breaks=1),
    Search("one crash: all retries end", lost=0, cycles=True),
]
# The same with more than one fault of a kind: minutes.
HOLDS_LONG = [
    Search("one crash, one lost message and a pool that goes away", outages=1),
    Search("two crashes and two lost messages", crashes=2, lost=2),
    Search("two crashes, two lost messages and two absences of the pool", crashes=2, lost=2,
           outages=2, partial=True),
]
# With post-copy allowed.
POSTCOPY_HOLDS = [
    Search("post-copy, and a lost message", crashes=0, define="MAY_SWITCH"),
    Search("post-copy, a lane that is gone, and a lost message", crashes=0, breaks=1,
           define="MAY_SWITCH"),
    Search("post-copy, a lane that is gone or a user who gives up, and a lost message", crashes=0,
           breaks=1, define="MAY_SWITCH GIVE_UPS=1"),
    Search("post-copy, and one crash", lost=0, define="MAY_SWITCH"),
    Search("post-copy, and a lane that is gone: all retries end", crashes=0, lost=0, breaks=1,
           define="MAY_SWITCH", cycles=True),
    Search("post-copy, and one crash; a node that crashes stays dead", lost=0,
           define="MAY_SWITCH NODES_STAY_DEAD"),
]
POSTCOPY_HOLDS_LONG = [
    Search("post-copy, one crash and one lost message", define="MAY_SWITCH"),
    Search("post-copy, one crash and a pool that goes away", lost=0, outages=1,
           define="MAY_SWITCH"),
    Search("post-copy, one crash and a lane that is gone", lost=0, breaks=1, define="MAY_SWITCH"),
    Search("post-copy, and one crash: all retries end", lost=0, define="MAY_SWITCH", cycles=True),
    Search("post-copy, and two crashes", crashes=2, lost=0, define="MAY_SWITCH"),
    Search("post-copy, two crashes and two lost messages", crashes=2, lost=2,
           define="MAY_SWITCH", partial=True),
]
# An error must be found in these: what they leave out of the protocol is needed.
BROKEN = [
    Search("B lets the guest run, and claims then", define="CLAIM_AFTER_RUN",
           error=TWO_RUN),
    Search("B does not wait for A's word", breaks=1, define="CLAIM_WHEN_LOADED",
           error=GOES_ON_THOUGH_CLAIMED),
    Search("A goes on without a claim when its handover is not answered",
           define="GO_ON_UNCLAIMED", error=GOES_ON_THOUGH_CLAIMED),
    Search("A ends its copy when its handover is not answered", define="END_UNASKED",
           error=ENDS_ITS_OWN),
    Search("B says after a restart that a copy has ended which may have run", lost=0, outages=1,
           define="ENDED_AFTER_CLAIM", error=RUNS_UNOWNED),
    Search("B ends the copy that it cannot let run before it gives the VM back", lost=0, breaks=1,
           define="END_BEFORE_GIVING", error=NONE_RUNS),
    Search("B gives back what may have run", lost=0, define="GIVE_BACK_BLINDLY", error=OLD_RUNS),
]
POSTCOPY_BROKEN = [
    Search("A ends its hypervisor when B runs, which has not got all pages", crashes=0, lost=0,
           define="MAY_SWITCH END_AT_RUNNING", error=ENDS_WHAT_IS_NEEDED),
    Search("A lets its guest go on after the switch without a claim", crashes=0,
           define="MAY_SWITCH TAKE_BACK_UNCLAIMED", error=GOES_ON_THOUGH_CLAIMED),
    Search("A takes B's claim for a guest that runs there",
           define="MAY_SWITCH FOLLOW_A_CLAIM", error=ENDS_ITS_OWN),
    Search("A does not look for an owner after B", lost=0,
           define="MAY_SWITCH FORGET_LATER_OWNERS", error=A_WAITS),
    Search("B says after a restart that a copy has ended which has run", lost=0, outages=1,
           define="MAY_SWITCH FORGET_RAN", error=OLD_RUNS),
    Search("A tells B once that pages are lost, and B does not ask", define="MAY_SWITCH TELL_ONCE", error=B_WAITS),
    Search("A asks for a new lane though all pages are there", crashes=0, lost=0, breaks=1,
           define="MAY_SWITCH MEND_WHOLE", error=A_WAITS),
    Search("A makes no new lane before it knows who runs the guest", crashes=0, lost=0, breaks=1,
           define="MAY_SWITCH NO_LANE_BEFORE_WORD", cycles=True, error=NEVER_ENDS),
    Search("B makes no new lane for a hypervisor that hangs", crashes=0, lost=0, breaks=1,
           define="MAY_SWITCH NO_LANE_FOR_HANGING", cycles=True, error=NEVER_ENDS),
    Search("A, its hypervisor dead, waits for a B that hangs for its pages", lost=0,
           define="MAY_SWITCH WAIT_FOR_HANGING", error=A_WAITS),
    Search("B goes on after a restart with what was never ready, and A waits for it", lost=0,
           define="MAY_SWITCH FORGET_READY", error=A_WAITS),
]
# These must be reached, or the searches above would show nothing.
REACHED = [
    Search("a move", define="REACH=1", error=REACHED_IT),
    Search("a move that fails and is undone", define="REACH=2", error=REACHED_IT),
    Search("an undecided one", define="REACH=3", error=REACHED_IT),
    Search("a VM that is handed back", breaks=1, define="REACH=4", error=REACHED_IT),
    Search("a move in spite of a droverd's crash", define="REACH=5", error=REACHED_IT),
    Search("a claim of B that comes too late", define="REACH=6", error=REACHED_IT),
    Search("a move by post-copy", crashes=0, lost=0, define="MAY_SWITCH REACH=7",
           error=REACHED_IT),
    Search("a switch that is taken back", crashes=0, breaks=1, define="MAY_SWITCH REACH=8",
           error=REACHED_IT),
    Search("a new lane", crashes=0, lost=0, breaks=1, define="MAY_SWITCH REACH=9",
           error=REACHED_IT),
]


def _number(pattern, text):
    match = re.search(pattern, text)
    if not match:
        sys.exit(f"spin says something else than expected:\n{text}")
    return int(float(match.group(1)))


def run(search):
    """Makes the verifier and runs it."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"cwd": folder, "check": True, "capture_output": True, "text": True}
        subprocess.run(["spin", "-a", *search.defines, MODEL], **options)
        how = ["-DBITSTATE"] if search.partial else ["-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB}"]
        how += ["-DNP", "-DNFAIR=3"] if search.cycles else ["-DSAFETY", "-DNOCLAIM"]
        # Most searches are over sooner than a compiler that optimizes.
        level = "-O2" if search in HOLDS_LONG + POSTCOPY_HOLDS_LONG else "-O0"
        subprocess.run(["cc", level, "-w", *how, "-o", "pan", "pan.c"], **options)
        start = time.monotonic()
        more = ["-w30"] if search.partial else ["-l", "-f"] if search.cycles else []
        text = subprocess.run(["./pan", f"-m{DEPTH}", *more], cwd=folder, check=False,
                              capture_output=True, text=True, timeout=TIMEOUT_S).stdout
        seconds = time.monotonic() - start
    what = re.search(r"pan:\d+: (.*?) \(at depth", text)
    errors = _number(r"errors: (\d+)", text)
    cut = "max search depth too small" in text or "out of memory" in text
    return Found(errors=errors, states=_number(r"([\d.e+]+) states, stored", text),
                 depth=_number(r"depth reached (\d+)", text), what=what.group(1) if what else "",
                 complete=not errors and not cut and not search.partial, seconds=seconds)


def _show(search, found, good):
    how = "all" if found.complete else "some" if search.partial else "until found"
    print(f"{'ok ' if good else 'BAD'} {search.says}\n"
          f"      {' '.join(search.defines)}\n"
          f"      {found.states} states ({how}), depth {found.depth}, {found.seconds:.1f} s"
          f"{', error: ' + found.what if found.what else ''}", flush=True)


def _all(title, searches, is_good):
    print(f"\n{title}")
    bad = 0
    for search in searches:
        found = run(search)
        good = is_good(search, found)
        bad += not good
        _show(search, found, good)
    return bad


def holds(search, found):
    return found.errors == 0 and (found.complete or search.partial)


def finds(search, found):
    return found.errors > 0 and search.error in found.what


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    bad = _all("must hold", HOLDS + POSTCOPY_HOLDS +
               ([] if quick else HOLDS_LONG + POSTCOPY_HOLDS_LONG), holds)
    bad += _all("broken on purpose: spin must find it", BROKEN + POSTCOPY_BROKEN, finds)
    bad += _all("must be reached", REACHED, finds)
    print(f"\n{bad} searches did not end as they must" if bad else "\nall as it must be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
