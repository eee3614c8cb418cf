"""What happened in a run: events with their times, counts, and violations."""

import threading
import time
from collections import Counter, deque

# Printed with a violation; all of them are in the file.
LAST_EVENTS = 40


class Record:
    """Written to by all threads of a run."""

    def __init__(self, directory, seed):
        self.seed, self.start = seed, time.monotonic()
        self.lock = threading.Lock()
        self.counts = Counter()
        self.last = deque(maxlen=LAST_EVENTS)
        self.violations = []
        self.moves = {}  # id of a migration: how it ended
        self.postcopies = set()  # ids of those whose guest was switched, and came to an end
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "events.log"
        self.file = open(self.path, "w", encoding="utf-8")

    def event(self, text):
        """One line, with the time of day and the seconds since the start."""
        line = (f"{time.strftime('%H:%M:%S', time.gmtime())} "
                f"{time.monotonic() - self.start:8.1f}  {text}")
        with self.lock:
            self.last.append(line)
            self.file.write(line + "\n")
            self.file.flush()

    def count(self, key, number=1):
        with self.lock:
            self.counts[key] += number

    def violation(self, what):
        """Says at once what happened, when, the seed, and what came before it."""
        self.event(f"VIOLATION: {what}")
        with self.lock:
            self.violations.append(what)
            before = "\n".join(f"    {line}" for line in self.last)
        print(f"VIOLATION after {time.monotonic() - self.start:.1f} s, seed {self.seed}: {what}\n"
              f"  The last events (all are in {self.path}):\n{before}", flush=True)

    def note_migrations(self, migrations):
        """Takes down how the migrations of a node's journal, as their source, ended."""
        with self.lock:
            for m in migrations:
                if m["side"] == "source":
                    self.moves[m["id"]] = m["state"]
                    if (m["report"] or {}).get("postcopy_ms"):
                        self.postcopies.add(m["id"])

    def summary(self):
        """The table that is printed at the end."""
        ends = Counter(self.moves.values())
        moves = {state: ends[state] for state in ("done", "failed", "cancelled")}
        groups = [("moves", {**moves, **ends, "of these done in post-copy": len(self.postcopies)}),
                  *((group, {key[1]: n for key, n in sorted(self.counts.items()) if key[0] == group})
                    for group in ("commands", "faults", "VMs", "checks"))]
        lines = [f"seed {self.seed}, {(time.monotonic() - self.start) / 60:.1f} minutes"]
        for group, counts in groups:
            lines.append(f"{group}:")
            lines += [f"  {key:<40}{number:>8}" for key, number in counts.items()]
        lines.append(f"violations: {len(self.violations)}")
        lines += [f"  {what}" for what in self.violations]
        return "\n".join(lines)
