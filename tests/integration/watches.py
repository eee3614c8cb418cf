"""Looks all the time for two running copies of one VM, and for two nodes that both say they run it;
takes down what guests say that their disks have taken."""

import os
import threading
from collections import deque

from droverlab import net
from droverlab.paths import LabError

VCPU_EVERY_S = 0.1
# Of CPU time. A vCPU that is told to stand still uses far less, a guest at rest more within a second.
RUNS_NS = 5_000_000
# Of a thread that ends: what it does then, such as giving the guest's memory back, is no guest's time.
PF_EXITING = 0x4
API_EVERY_S = 0.5
DISK_EVERY_S = 1
# A process may be looked at before it has become a hypervisor.
YOUNG_SAMPLES = 50


class Pair:
    """Two copies of one VM. In a handover the older runs, and then the newer; once that has run, the
    older never may. So this is never true of a handover, however short it is or late a sample is."""

    def __init__(self):
        self.newer_first = self.older_then = None

    def sample(self, newer_ns, older_ns):
        """Has the older run after the newer had? The CPU time of both, the newer's read first."""
        if self.newer_first is None:
            self.newer_first = newer_ns
        if self.older_then is None and newer_ns - self.newer_first >= RUNS_NS:
            self.older_then = older_ns
        return self.older_then is not None and older_ns - self.older_then >= RUNS_NS


class Watch(threading.Thread):
    """A thread that looks again and again until it is ended."""

    def __init__(self, record, every_s):
        super().__init__(daemon=True)
        self.record, self.every_s = record, every_s
        self.over = threading.Event()

    def look(self):
        raise NotImplementedError

    def run(self):
        while not self.over.wait(self.every_s):
            try:
                self.look()
            except Exception as error:  # pylint: disable=broad-except
                self.record.violation(f"{type(self).__name__} is broken: {error!r}")
                raise

    def end(self):
        self.over.set()
        if self.is_alive():
            self.join()


def _stat(directory):
    with open(f"{directory}/stat", "rb") as file:
        return file.read().rsplit(b")", 1)[1].split()


class Copy:
    """A hypervisor process of a VM."""

    def __init__(self, vm, node, pid):
        self.vm, self.node, self.pid = vm, node, pid
        self.born = int(_stat(f"/proc/{pid}")[19])
        self.thread, self.ns = None, None
        self.steps_ms = deque(maxlen=15)  # CPU time from sample to sample

    def _find_thread(self):
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/comm", "rb") as comm:
                if comm.read().startswith(b"CPU 0/"):
                    return f"/proc/{self.pid}/task/{task}"
        return None

    def sample(self):
        """Reads the CPU time of its vCPU: `ns`, None while there is none."""
        try:
            self.thread = self.thread or self._find_thread()
            if self.thread:
                with open(f"{self.thread}/schedstat", "rb") as file:
                    before, self.ns = self.ns, int(file.read().split()[0])
                self.steps_ms.append(round((self.ns - (before or self.ns)) / 1e6, 1))
                if int(_stat(self.thread)[6]) & PF_EXITING:
                    self.ns = None
        except OSError:
            self.ns = None  # it has ended

    def __str__(self):
        return (f"process {self.pid} on {self.node} (its vCPU ran {self.ns / 1e6:.1f} ms, at last, each "
                f"{VCPU_EVERY_S} s, {list(self.steps_ms)} ms)")


class VcpuWatch(Watch):
    """Two copies of a VM whose vCPUs both run, by the CPU time of their threads."""

    def __init__(self, record, lab):
        super().__init__(record, VCPU_EVERY_S)
        self.nodes = {os.stat(net.NETNS / node.namespace).st_ino: node.name for node in lab.nodes}
        self.copies, self.others, self.pairs, self.said = {}, {}, {}, set()

    def _copy(self, pid):
        """The copy that this process is, or None."""
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if b"qemu-system" not in words[0]:
            return None
        node = self.nodes.get(os.stat(f"/proc/{pid}/ns/net").st_ino)
        vm = next((w[6:].split(b",")[0].decode() for w in words if w.startswith(b"guest=")), None)
        return Copy(vm, node, pid) if node and vm else None

    def _find(self):
        pids = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
        self.copies = {pid: copy for pid, copy in self.copies.items() if pid in pids}
        self.others = {pid: seen for pid, seen in self.others.items() if pid in pids}
        for pid in pids - self.copies.keys():
            seen = self.others[pid] = self.others.get(pid, 0) + 1
            if seen > YOUNG_SAMPLES:
                continue
            try:
                copy = self._copy(pid)
            except OSError:
                continue
            if copy:
                self.copies[pid] = copy
                del self.others[pid]

    def look(self):
        self._find()
        by_vm = {}
        for copy in sorted(self.copies.values(), key=lambda copy: copy.born, reverse=True):
            copy.sample()
            if copy.ns is not None:
                by_vm.setdefault(copy.vm, []).append(copy)
        self.record.count(("checks", "samples of vCPUs"))
        pairs = {(newer, older): self.pairs.get((newer, older)) or Pair()
                 for copies in by_vm.values() for i, newer in enumerate(copies)
                 for older in copies[i + 1:]}
        self.pairs = pairs
        for (newer, older), pair in pairs.items():
            self.record.count(("checks", "samples of two copies of a VM"))
            if pair.sample(newer.ns, older.ns) and (newer, older) not in self.said:
                self.said.add((newer, older))
                self.record.violation(f"{newer.vm} runs twice: {newer} and {older}")


class Epochs:
    """Which node has a VM in an epoch, by what all nodes say: one, for all time."""

    def __init__(self, record):
        self.record, self.lock = record, threading.Lock()
        self.nodes = {}

    def say(self, by, info):
        if not info.get("node"):
            return
        key = (info["name"], info["epoch"], "running" if info["state"] == "running" else "owned")
        with self.lock:
            first, node = self.nodes.setdefault(key, (by, info["node"]))
        if node != info["node"]:
            self.record.violation(f"{key[0]} is {key[2]} in epoch {key[1]} on {node}, as {first} said, "
                                  f"and on {info['node']}, as {by} says")


class ApiWatch(Watch):
    """What the API of a node says of every VM."""

    def __init__(self, record, node, vms, epochs):
        super().__init__(record, API_EVERY_S)
        self.node, self.vms, self.epochs = node, vms, epochs

    def look(self):
        for vm in self.vms:
            try:
                status, info = self.node.api("GET", f"/v1/vms/{vm}", timeout=5)
            except OSError:
                continue  # droverd is down
            if status == 200:
                self.record.count(("checks", "answers of the API"))
                self.epochs.say(self.node.name, info)


class DiskWatch(Watch):
    """How many records a guest has had acknowledged by its disk."""

    def __init__(self, record, vm):
        super().__init__(record, DISK_EVERY_S)
        self.vm = vm

    def look(self):
        writer = self.vm.writer
        try:
            status = self.vm.ask("status", timeout=5)
        except LabError:
            return  # it is down, or stands still
        if writer and writer == self.vm.writer:
            self.vm.acknowledged = max(self.vm.acknowledged, status["disk_records"])
            if status["disk_errno"]:
                self.record.violation(f"{self.vm.name}'s disk fails: {status}")
                self.vm.writer = 0
