"""Faults, drawn at random: each is put right again after a while, on its own."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

from droverlab import net
from droverlab.lab import SHARED
from droverlab.paths import LabError

from vms import wires

# At the same time, on different nodes.
MOST = 2
PAUSE_S = (2, 9)
STOP_S = 60
START_TRIES = 3
POOL = f"{SHARED}/pool"


def _link(node, state):
    subprocess.run(["ip", "-n", node.namespace, "link", "set", "mig0", state], check=True)


class Faults(threading.Thread):
    """Injects faults until it is told to rest; then everything is whole again."""

    def __init__(self, record, lab, vms, seed):
        super().__init__(daemon=True)
        self.record, self.lab, self.vms = record, lab, vms
        self.random = random.Random(f"{seed}-faults")
        self.points = [line.split()[0] for line in lab.nodes[0].run(
            "droverd", "--list-faults").stdout.splitlines() if line]
        self.rest, self.over = threading.Event(), threading.Event()
        self.rest.set()
        self.going_on = {}  # name of a node: the thread of its fault
        self.kinds = [(self.kill_droverd, 12), (self.stop_droverd, 6), (self.kill_wire, 25),
                      (self.kill_hypervisor, 3), (self.cut_link, 15), (self.read_only, 15),
                      (self.cover_pool, 10), (self.arm_point, 20)]

    def run(self):
        while not self.over.wait(self.random.uniform(*PAUSE_S)):
            self.going_on = {name: t for name, t in self.going_on.items() if t.is_alive()}
            free = [node for node in self.lab.nodes if node.name not in self.going_on]
            if self.rest.is_set() or len(self.lab.nodes) - len(free) >= MOST:
                continue
            inject, = self.random.choices(*zip(*self.kinds))
            node = self.random.choice(free)
            draw = random.Random(self.random.random())
            thread = threading.Thread(target=self._one, args=(inject, node, draw), daemon=True)
            self.going_on[node.name] = thread
            thread.start()

    def _one(self, inject, node, draw):
        try:
            inject(node, draw)
        except Exception as error:  # pylint: disable=broad-except
            if not self.over.is_set():
                self.record.violation(f"{inject.__name__} on {node.name}: {error!r}")

    def begin(self):
        self.rest.clear()

    def heal(self):
        """Ends all faults and waits until they are put right."""
        self.rest.set()
        for thread in list(self.going_on.values()):
            thread.join()
        for node in self.lab.nodes:
            if node.daemon_pid is None:
                self.record.violation(f"droverd on {node.name} has ended by itself")
                self._start_droverd(node)

    def end(self):
        self.rest.set()
        self.over.set()
        for thread in [self, *self.going_on.values()]:
            if thread.is_alive():
                thread.join(STOP_S)

    def _say(self, kind, text):
        self.record.count(("faults", kind))
        self.record.event(f"fault: {text}")

    def _hold(self, seconds, until=lambda: False):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            if self.rest.wait(0.1):
                return

    def _start_droverd(self, node, **environment):
        """Starts droverd. With a fault point armed it may end before it is ready."""
        for _ in range(START_TRIES):
            try:
                node.start_daemon(**environment)
                break
            except LabError as error:
                self.record.event(f"droverd on {node.name}: {str(error)[:300]}")
                if environment:
                    break
                node.stop_daemon(signal.SIGKILL)
        else:
            self.record.violation(f"droverd on {node.name} does not become ready")
        self.record.event(f"droverd on {node.name} is started, process {node.daemon_pid} "
                          f"{environment or ''}")

    def _end_droverd(self, node, number, armed=False):
        """Ends droverd. armed: a fault point may have ended it before."""
        if node.daemon_pid is None and not armed:
            self.record.violation(f"droverd on {node.name} has ended by itself")
        try:
            node.stop_daemon(number, STOP_S)
        except LabError:
            self.record.violation(f"droverd on {node.name} does not end within {STOP_S} s")
            node.stop_daemon(signal.SIGKILL)

    # --- the kinds ---

    def _take_away(self, node, number, how, away_s):
        self._say(f"droverd {how}", f"droverd on {node.name} is {how} for {away_s:.1f} s")
        self._end_droverd(node, number)
        self._hold(away_s)
        self._start_droverd(node)

    def kill_droverd(self, node, draw):
        self._take_away(node, signal.SIGKILL, "killed", draw.uniform(0.5, 5))

    def stop_droverd(self, node, draw):
        self._take_away(node, signal.SIGTERM, "stopped", draw.uniform(0.1, 5))

    def kill_wire(self, node, draw):
        """Waits a while for one, for a move is not always in progress."""
        self._hold(draw.uniform(2, 10), lambda: wires(node))
        self._hold(draw.uniform(0, 1))
        found = wires(node)
        if found:
            pid = draw.choice(found)
            self._say("drover-wire killed", f"drover-wire {pid} on {node.name} is killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_hypervisor(self, node, draw):
        vm = draw.choice(self.vms)
        pids = vm.pids(node)
        if pids:
            vm.excuse(f"its hypervisor on {node.name} was killed")
            self._say("hypervisor killed", f"{vm.name}'s hypervisor {pids[0]} on {node.name} is killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
            net.wait_gone(pids[:1], 10)

    def cut_link(self, node, draw):
        away_s = draw.uniform(1, 15)
        self._say("link down", f"{node.name}'s link is down for {away_s:.1f} s")
        _link(node, "down")
        try:
            self._hold(away_s)
        finally:
            _link(node, "up")
            self.record.event(f"{node.name}'s link is up")

    def read_only(self, node, draw):
        vm, away_s = draw.choice(self.vms), draw.uniform(1, 12)
        directory = f"{POOL}/vms/{vm.name}"
        self._say("VM's directory read-only",
                  f"{vm.name}'s directory is read-only on {node.name} for {away_s:.1f} s")
        node.run("mount", "-n", "--bind", directory, directory)
        try:
            node.run("mount", "-n", "-o", "remount,bind,ro", directory)
            self._hold(away_s)
        finally:
            node.run("umount", "-n", "-l", directory)
            self.record.event(f"{vm.name}'s directory can be written on {node.name}")

    def cover_pool(self, node, draw):
        away_s = draw.uniform(1, 12)
        self._say("pool gone", f"the pool is gone on {node.name} for {away_s:.1f} s")
        node.run("mount", "-n", "-t", "tmpfs", "none", POOL)
        try:
            self._hold(away_s)
        finally:
            node.run("umount", "-n", "-l", POOL)
            self.record.event(f"the pool is back on {node.name}")

    def arm_point(self, node, draw):
        point, action = draw.choice(self.points), draw.choice(("error", "kill", "delay=5000"))
        armed_s, away_s = draw.uniform(5, 20), draw.uniform(0.5, 5)
        self._say(f"fault point, {action}",
                  f"droverd on {node.name} has {point}:{action} for {armed_s:.1f} s")
        self._end_droverd(node, draw.choice((signal.SIGTERM, signal.SIGKILL)))
        self._start_droverd(node, DROVER_FAULT=f"{point}:{action}")
        self._hold(armed_s, lambda: node.daemon_pid is None)
        if node.daemon_pid is None:
            self.record.count(("faults", "droverd killed at its fault point"))
            self.record.event(f"droverd on {node.name} has ended at {point}")
            self._hold(away_s)
        else:
            self._end_droverd(node, signal.SIGTERM, armed=True)
        self._start_droverd(node)
