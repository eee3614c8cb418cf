#!/usr/bin/python3
"""Moves real guests around three nodes for a long time while faults are injected at random, and
looks for what must never be. docs/reliability.md, "Long run", says what is done and what is checked.

Exit status 1 when there was a violation; the events, and then the logs of the nodes too, are kept in
build/soak/.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(ROOT / "lab"), str(ROOT / "tests" / "integration")]

# pylint: disable=wrong-import-position
from droverlab import guests
from droverlab.lab import Lab
from droverlab.paths import BUILD, LabError

from faults import Faults
from load import COMMAND_S, RECORDS_MAX, Load, Vm
from record import Record
from vms import allow_userfaultfd, leftovers, wait_for
from watches import ApiWatch, DiskWatch, Epochs, VcpuWatch

NODES = 3
# The last has no disk, whose lock would keep a second copy from running whatever drover does.
MEMORY = ("128M", "160M", "192M", "128M")
# Between two times at which everything is put right and looked at.
QUIET_EVERY_S = 120
FINISH_S = 300
SETTLE_S = 60
UNFINISHED = ("running", "undecided", "interrupted")


class Soak:
    """One run."""

    def __init__(self, minutes, seed, directory):
        self.seconds, self.seed, self.directory = minutes * 60, seed, directory
        self.record = Record(directory, seed)
        self.lab = Lab(directory / "lab")
        self.vms, self.loads, self.watches, self.faults = [], [], [], None
        self.told = set()
        self.random = random.Random(f"{seed}-quiet")

    def make(self):
        self.lab.up(nodes=NODES)
        for node in self.lab.nodes:
            allow_userfaultfd(node)
        for i, memory in enumerate(MEMORY, 1):
            self.vms.append(Vm(self.lab, self.lab.nodes[i % NODES], f"vm{i}", memory, self.record,
                               disk=i < len(MEMORY)))
        epochs, names = Epochs(self.record), [vm.name for vm in self.vms]
        self.watches = [VcpuWatch(self.record, self.lab),
                        *(ApiWatch(self.record, node, names, epochs) for node in self.lab.nodes),
                        *(DiskWatch(self.record, vm) for vm in self.vms if vm.disk)]
        self.faults = Faults(self.record, self.lab, self.vms, self.seed)
        self.loads = [Load(self.record, vm, self.seed) for vm in self.vms]

    def run(self):
        end = time.monotonic() + self.seconds
        for thread in [*self.watches, self.faults, *self.loads]:
            thread.start()
        while True:
            self.faults.begin()
            time.sleep(max(0, min(QUIET_EVERY_S, end - time.monotonic())))
            last = time.monotonic() >= end
            self.quiet(last)
            if last:
                return

    def down(self):
        """Ends everything; keeps the nodes' logs when there was a violation."""
        try:
            self._end_threads()
            if self.record.violations:
                self._keep_logs()
        finally:
            self.lab.down()

    def _end_threads(self):
        for thread in self.loads:
            thread.over.set()
        for watch in self.watches:
            watch.over.set()
        if self.faults:
            self.faults.end()
        for thread in [*self.watches, *self.loads]:
            if thread.is_alive():
                thread.join(10)

    def _keep_logs(self):
        for node in self.lab.nodes:
            kept = self.directory / node.name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(node.directory, kept)
            vms = node.path("/run/drover/vms")
            for file in vms.glob("*/*") if vms.exists() else []:
                if file.is_file():
                    shutil.copy(file, kept / f"{file.parent.name}-{file.name}")
            for disk in self.lab.pool.glob("vms/*/owner.*"):
                (kept / f"{disk.parent.name}-{disk.name}").write_text(disk.read_text())

    # --- everything is put right, and looked at ---

    def quiet(self, last):
        record = self.record
        record.event("quiet: the faults end")
        for vm in self.vms:  # no new commands; those that are in progress end with faults around
            if not vm.busy.acquire(timeout=COMMAND_S * 3):
                record.violation(f"what is done to {vm.name} does not end")
                raise LabError(f"{vm.name} is busy")
        self.faults.heal()
        try:
            self._wait_finished()
            for vm in self.vms:
                self._look_at(vm)
            self._look_for_leftovers()
            self._make_whole()
        finally:
            for load, vm in zip(self.loads, self.vms):
                if last:
                    load.over.set()
                vm.busy.release()
        record.count(("checks", "of everything at rest"))
        record.event("quiet: all was looked at")
        print(f"{(time.monotonic() - record.start) / 60:.1f} min: {len(record.moves)} moves, "
              f"{sum(n for key, n in record.counts.items() if key[0] == 'faults')} faults, "
              f"{len(record.violations)} violations", flush=True)

    def _migrations(self):
        found = []
        for node in self.lab.nodes:
            status, answer = node.api("GET", "/v1/migrations")
            if status != 200:
                raise LabError(f"{node.name}: {answer}")
            found += [{**m, "on": node.name} for m in answer["migrations"]]
        return found

    def _unfinished(self):
        return [m for m in self._migrations() if m["state"] in UNFINISHED]

    def _wait_finished(self):
        try:
            wait_for(lambda: not self._unfinished(), "the end of all migrations", FINISH_S)
        except AssertionError:
            for m in self._unfinished():
                self.record.violation(f"{m['vm']}: migration {m['id']} does not end on {m['on']}: {m}")
        self.record.note_migrations(self._migrations())

    def _picture(self, vm):
        """(copies, owner, state as its owner says); the owner as a Node."""
        copies, (_, name) = vm.copies(), vm.owner()
        if name is None:
            return copies, None, "stopped"
        _, info = self.lab.node(name).api("GET", f"/v1/vms/{vm.name}")
        return copies, name, info.get("state")

    def _is_settled(self, vm):
        copies, owner, state = self._picture(vm)
        return not copies or [node.name for node, _ in copies] == [owner] and state == "running"

    def _look_at(self, vm):
        """One hypervisor, with its owner, its memory and disk right; or none, with an excuse."""
        broken = vm.find_broken_postcopy()
        try:
            wait_for(lambda: self._is_settled(vm), "one copy", SETTLE_S)
        except AssertionError:
            copies, owner, state = self._picture(vm)
            if not (broken and len(copies) == 1 and copies[0][0].name == owner):
                self.record.violation(
                    f"{vm.name} is not on one node: copies {[(n.name, pid) for n, pid in copies]}, "
                    f"owner {owner}, state {state}")
            self._end_all(vm)
        if not vm.copies():
            if not vm.excuses:
                self.record.violation(f"{vm.name} has no hypervisor any more, owner {vm.owner()}")
            return
        if broken:
            self.record.count(("VMs", "without their memory, for a post-copy was broken"))
            self._end_all(vm)
            return
        try:
            if not vm.loaded:
                vm.load()
            vm.check_memory()
            vm.check_disk()
        except LabError as error:
            self.record.violation(f"{vm.name} does not answer: {error}")
            self._end_all(vm)

    def _end_all(self, vm):
        """Back to where it can be started."""
        vm.excuse("the soak has ended it")
        for node, pid in vm.copies():
            ended = node.run("drover", "stop", vm.name, "--timeout", "0", check=False, timeout=120)
            if ended.returncode != 0:
                self.record.violation(f"{vm.name} cannot be stopped: {ended.stdout}{ended.stderr}")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not vm.copies(), f"the end of {vm.name}", SETTLE_S)

    def _look_for_leftovers(self):
        for node in self.lab.nodes:
            def left(node=node):
                allowed = [pid for vm in self.vms for pid in vm.pids(node)]
                return [what for what in leftovers(node, allowed) if (node.name, what) not in self.told]
            try:
                wait_for(lambda left=left: not left(), "nothing left over", SETTLE_S)
            except AssertionError:
                found = left()
                self.told.update((node.name, what) for what in found)
                self.record.violation(f"left over on {node.name}: {found}")

    def _make_whole(self):
        """VMs that are down can be started, on any node."""
        for vm in self.vms:
            if not vm.copies():
                nodes = self.lab.nodes
                self.random.shuffle(nodes)
                if not any(vm.start(node) for node in nodes):
                    self.record.violation(f"{vm.name} cannot be started on any node, owner {vm.owner()}")
            elif vm.acknowledged > RECORDS_MAX:
                vm.new_writer()
            vm.excuses.clear()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="of what is drawn at random; printed when not given")
    arguments = parser.parse_args()
    # A shell that started us in the background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    guests.guest("tiny")
    directory = BUILD / "soak"
    Lab(directory / "lab").down()  # what a killed run may have left
    shutil.rmtree(directory, ignore_errors=True)
    print(f"seed {seed}, {arguments.minutes:g} minutes; events in {directory}/events.log", flush=True)
    soak = Soak(arguments.minutes, seed, directory)
    status = 1
    try:
        soak.make()
        soak.run()
        status = 1 if soak.record.violations else 0
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        status = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        soak.down()
        print(soak.record.summary(), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
