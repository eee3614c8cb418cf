"""Processor time of the processes that take part in a move."""

import contextlib
import os
import threading

from droverlab import net

LIST_EVERY_S = 0.1
LOOKS_PER_LIST = 4
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PROGRAMS = {"qemu-system-x86_64": "qemu", "drover-wire": "wire"}


class _Process:
    """One process; the file stays open, so that another with its number is not taken for it."""

    def __init__(self, pid, role):
        self.role = role
        self.stat = open(f"/proc/{pid}/stat", "rb", buffering=0)
        self.first = self.last = 0.0

    def look(self):
        with contextlib.suppress(OSError):  # it has ended: the last look counts
            self.stat.seek(0)
            fields = self.stat.read(1024).rpartition(b")")[2].split()
            self.last = (int(fields[11]) + int(fields[12])) * TICK_S


def _busy():
    """Processor seconds that the machine has used, or was not given (steal), since it started."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_S


class Meter:
    """In a `with` block: watches QEMU and drover-wire on both nodes. seconds() tells afterwards
    what each used inside the block, to about 0.03 s where it ended in it; "rest" is what all else
    on the machine took: the client, the kernel, droverd, and whatever has no business there."""

    ROLES = ("source_qemu", "destination_qemu", "send", "recv")

    def __init__(self, source, destination):
        self.roles = {(source.namespace, "qemu"): "source_qemu",
                      (destination.namespace, "qemu"): "destination_qemu",
                      (source.namespace, "wire"): "send",
                      (destination.namespace, "wire"): "recv"}
        self.known, self.processes, self.busy = set(), [], 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._list()
        for process in self.processes:
            process.first = process.last
        self.thread.start()
        self.busy = _busy()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.thread.join()
        self._look()
        self.busy = _busy() - self.busy
        for process in self.processes:
            process.stat.close()

    def seconds(self):
        used = dict.fromkeys(self.ROLES, 0.0)
        for process in self.processes:
            used[process.role] += process.last - process.first
        used["rest"] = max(0.0, self.busy - sum(used.values()))
        return {role: round(value, 2) for role, value in used.items()}

    def _add(self, pid):
        program = PROGRAMS.get(os.path.basename(os.readlink(f"/proc/{pid}/exe")))
        # A child that has not come to its exec yet is looked at again.
        if program is None:
            return
        self.known.add(pid)
        for (namespace, kind), role in self.roles.items():
            if kind == program and net.is_in(pid, namespace):
                self.processes.append(_Process(pid, role))

    def _list(self):
        for name in os.listdir("/proc"):
            if name.isdigit() and name not in self.known:
                with contextlib.suppress(OSError):  # ended, or a thread of the kernel
                    self._add(name)
        self._look()

    def _look(self):
        for process in self.processes:
            process.look()

    def _watch(self):
        while True:
            for _ in range(LOOKS_PER_LIST):
                if self.over.wait(LIST_EVERY_S / LOOKS_PER_LIST):
                    return
                self._look()
            self._list()
