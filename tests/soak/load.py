"""The VMs of the run, and what is done to them: moves, cancels, stops and starts, several VMs at the
same time."""

import json
import os
import random
import re
import subprocess
import threading
import time

from droverlab import guest_client
from droverlab.paths import LabError

from vms import Guest, drover

FILL_MIB = 16
DIRTY = (3, "words")
# More than the lane carries then: pre-copy alone would not come to an end.
DIRTY_POSTCOPY, LANE_POSTCOPY = (24, "page"), "16M"
RECORDS_S = 50
DISK_MIB = 32
RECORD_BYTES = 512
# A new writer begins at the start of the disk before it is full.
RECORDS_MAX = (DISK_MIB << 20) // RECORD_BYTES // 2
COMMAND_S = 400
BROKEN = re.compile(r"without some pages|ended there in post-copy|has ended in post-copy")


class Vm(Guest):
    """A guest whose memory and disk are written all the time, and what excuses its being down."""

    def __init__(self, lab, node, name, memory, record, disk=True):
        super().__init__(lab, node, name, memory=memory, fill=False,
                         disk=f"disk0.raw,size={DISK_MIB}M,format=raw" if disk else None)
        self.record, self.disk = record, disk
        self.busy = threading.Lock()  # held by who does something to it
        self.loaded = False
        self.writer = 0  # counts the guest's disk writers; 0 while there is none
        self.writers = self.acknowledged = 0
        self.excuses, self.started_ms = [], 0
        if disk:
            with open(lab.pool / "vms" / name / "disk0.raw", "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, DISK_MIB << 20)
        self.load()

    def ask(self, *command, timeout=60):
        """As Guest.ask; LabError also for what the guest refuses."""
        answer = guest_client.ask(self.lab.guests, self.address, *command, timeout=timeout)
        if "error" in answer:
            raise LabError(f"{self.name}: {command}: {answer}")
        return answer

    def excuse(self, why):
        """From now until its next start it may be down."""
        self.excuses.append(why)

    def copies(self):
        """[(node, process id)]"""
        return [(node, pid) for node in self.lab.nodes for pid in self.pids(node)]

    def owner(self):
        """(epoch, name of the owner or None), from the pool."""
        directory = self.lab.pool / "vms" / self.name
        while True:
            epoch = max(int(path.name[6:]) for path in directory.glob("owner.*"))
            try:
                text = (directory / f"owner.{epoch}").read_text()
            except FileNotFoundError:
                continue
            name = re.search(r"^node = (.*)$", text, re.M).group(1)
            return epoch, None if name == "-" else name

    def find_broken_postcopy(self):
        """Excuses the VM where a post-copy that failed since its start has cost it its memory."""
        for node in self.lab.nodes:
            try:
                _, answer = node.api("GET", "/v1/migrations")
            except OSError:
                continue
            for m in answer.get("migrations", []):
                if m["vm"] == self.name and m["state"] == "failed" and \
                        m["started_ms"] >= self.started_ms and BROKEN.search(str(m["error"])):
                    self.excuse(f"post-copy {m['id']} was broken")
                    return True
        return False

    def check_disk(self):
        """All that was acknowledged is on the disk."""
        if not self.disk:
            return
        result = self.ask("diskcheck", "/dev/vda")
        self.record.count(("checks", "of disks"))
        self.record.event(f"{self.name}: diskcheck {result}, acknowledged {self.acknowledged}")
        if not result["ok"] or result["records"] < self.acknowledged:
            self.record.violation(f"{self.name}'s disk is wrong: {result}, and {self.acknowledged} "
                                  "records were acknowledged")

    def check_memory(self):
        result = self.ask("check")
        self.record.count(("checks", "of memories"))
        self.record.event(f"{self.name}: check {result}")
        if result["bad"] or not result["pages"]:
            self.record.violation(f"{self.name}'s memory is wrong: {result}")

    def new_writer(self):
        """Records from the first on, after those of the last writer were checked."""
        if not self.disk:
            return
        self.check_disk()
        self.writer = 0
        self.ask("disk", "/dev/vda", RECORDS_S)
        self.acknowledged = 0
        self.writers += 1
        self.writer = self.writers

    def load(self):
        """Fills the memory of a guest that has just been started, and goes on changing it."""
        self.new_writer()
        self.ask("fill", FILL_MIB, "text")
        self.ask("dirty", *DIRTY)
        self.loaded = True

    def start(self, node):
        """Starts it, there being no copy of it; did the guest come up?"""
        self.loaded, self.writer = False, 0
        began, self.started_ms = len(self.excuses), int(time.time() * 1000)
        status, documents = drover(node, "start", self.name, check=False, timeout=COMMAND_S)
        self.record.event(f"{self.name}: start on {node.name}: {status} {said(documents)}")
        if status != 0:
            return False
        self.record.count(("VMs", "restarts"))
        try:
            guest_client.wait_ready(self.lab.guests, self.address, 60)
            self.load()
        except LabError as error:
            self.record.event(f"{self.name}: {error}")
            return False
        del self.excuses[:began]
        return True


def said(documents):
    """The error among what drover printed, in short."""
    errors = [d["error"] for d in documents if isinstance(d, dict) and d.get("error")]
    return f"{errors[-1]['kind']}: {errors[-1]['message'][:200]}" if errors else ""


class Load(threading.Thread):
    """Does one thing after the other to one VM."""

    def __init__(self, record, vm, seed):
        super().__init__(daemon=True)
        self.record, self.vm = record, vm
        self.random = random.Random(f"{seed}-{vm.name}")
        self.over = threading.Event()
        self.things = [(self.move, 80), (self.stop_and_start, 6), (self.idle, 14)]

    def run(self):
        while not self.over.is_set():
            try:
                with self.vm.busy:
                    if not self.over.is_set():
                        self.one()
            except Exception as error:  # pylint: disable=broad-except
                if not self.over.is_set():
                    self.record.violation(f"{self.vm.name}: {error!r}")
            self.over.wait(self.random.uniform(0.2, 2))

    def one(self):
        vm = self.vm
        if not vm.copies():
            if not vm.excuses and not vm.find_broken_postcopy():
                self.record.violation(f"{vm.name} has no hypervisor any more, owner {vm.owner()}")
                vm.excuse("told before")
            self.record.count(("VMs", "found down"))
            vm.start(self.random.choice(vm.lab.nodes))
        elif not vm.loaded:
            try:
                vm.load()
            except LabError as error:
                self.record.event(f"{vm.name}: {error}")
        else:
            self.random.choices(*zip(*self.things))[0]()

    def idle(self):
        self.over.wait(self.random.uniform(0.5, 3))

    def stop_and_start(self):
        vm, node = self.vm, self.random.choice(self.vm.lab.nodes)
        vm.excuse("it was stopped")
        status, documents = drover(node, "stop", vm.name, "--timeout", "0", check=False,
                                   timeout=COMMAND_S)
        self.record.event(f"{vm.name}: stop, asked on {node.name}: {status} {said(documents)}")
        self.record.count(("commands", "stop" if status == 0 else "stop, refused or failed"))
        if status == 0 and not vm.copies():
            vm.start(self.random.choice(vm.lab.nodes))

    def move(self):
        """Sometimes two at once, sometimes cancelled in the middle."""
        draw, nodes = self.random, self.vm.lab.nodes
        _, here = self.vm.owner()
        others = [node for node in nodes if node.name != here]
        # Slow ones meet more faults.
        rate = draw.choice((None, None, None, "32M", "16M", "8M"))
        options = ["--bandwidth", rate] if rate else []
        busy = False
        if draw.random() < 0.3:
            busy = draw.random() < 0.7 and self._dirty(*DIRTY_POSTCOPY)
            options = ["--bandwidth", LANE_POSTCOPY] if busy else options
            options.append(draw.choice(("--postcopy", "--postcopy", "--postcopy=auto")))
        number = 2 if draw.random() < 0.1 else 1
        cancel_s = draw.uniform(0.2, 4) if draw.random() < 0.15 else None
        # Mostly asked where it runs, as the other nodes pass it on.
        askers = [draw.choice(nodes) if draw.random() < 0.3 else
                  next((n for n in nodes if n.name == here), nodes[0]) for _ in range(number)]
        moves = [self._begin(asker, draw.choice(others), options) for asker in askers]
        if cancel_s is not None:
            self._cancel(cancel_s)
        for asker, process in moves:
            self._end(asker, process)
        if busy:
            self._dirty(*DIRTY)

    def _dirty(self, *how):
        """Changes how the guest changes its memory; False when it does not answer."""
        try:
            self.vm.ask("dirty", *how)
            return True
        except LabError as error:
            self.record.event(f"{self.vm.name}: {error}")
            return False

    def _begin(self, asker, there, options):
        self.record.event(f"{self.vm.name}: migrate to {there.name} {' '.join(options)}, asked on "
                          f"{asker.name}")
        return asker, asker.popen(
            "drover", "migrate", self.vm.name, there.name, *options, "--json",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _cancel(self, after_s):
        self.over.wait(after_s)
        for node in self.vm.lab.nodes:
            try:
                _, answer = node.api("GET", "/v1/migrations")
                found = [m for m in answer.get("migrations", []) if m["vm"] == self.vm.name and
                         m["side"] == "source" and m["state"] == "running"]
                for m in found:
                    status, _ = node.api("POST", f"/v1/migrations/{m['id']}/cancel")
                    self.record.event(f"{self.vm.name}: cancel of {m['id']} on {node.name}: {status}")
                    self.record.count(("commands", "cancel" if status == 200 else "cancel, refused"))
            except OSError:
                pass

    def _end(self, asker, process):
        try:
            out, err = process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.record.violation(f"{self.vm.name}: drover migrate on {asker.name} does not end "
                                  f"within {COMMAND_S} s")
            return
        documents = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        error = said(documents) or err.strip()[-200:]
        self.record.event(f"{self.vm.name}: migrate on {asker.name} ended: {process.returncode} {error}")
        kind = error.split(":")[0] if process.returncode else "done"
        if kind in ("daemon", "unreachable", "pool"):  # where nothing can be done for a while
            self.over.wait(self.random.uniform(1, 4))
        self.record.count(("commands", f"migrate, {kind}"))
