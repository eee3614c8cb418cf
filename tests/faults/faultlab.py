"""A lab with a guest on which cells are tried, and all that must be true after each.

The pool is an ext4 of its own, so that it can be full. The guest keeps changing its memory and
appends numbered, checksummed, synced records to its disk; what it says to the outside of them is
kept. While a cell runs, both nodes are looked at ten times a second.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from droverlab import guest_client
from droverlab.lab import SHARED, VM_USER
from droverlab.paths import LabError

from cells import SCENARIOS, SOURCE
from outcomes import AGAIN, is_switched, right

import bhyvelab
from vms import Guest, allow_userfaultfd, drover, error_of, leftovers, wait_for, wires
from watches import ApiWatch, Epochs, VcpuWatch, Watch

FILL_MIB = 8
DISK_MIB = 8
DIRTY_MIB_S = 4
BUSY_MIB_S = 60  # more than the lane takes: post-copy has something to bring
LANE = "8M"
HANG_MS = 12000  # longer than a call between two droverds may take
LOOK_S = 0.1
# How long a fault lasts. What is held goes on meanwhile.
CUT_S, BLIP_S, AWAY_S = 8, 3, 0.3
END_S = 150
UNFINISHED = ("running", "undecided", "interrupted")


class Violation(AssertionError):
    """What must never be."""


class Records(Watch):
    """What the guest says that its disk has taken."""

    def __init__(self, record, guest):
        super().__init__(record, LOOK_S)
        self.guest, self.acknowledged = guest, 0

    def look(self):
        with contextlib.suppress(LabError):
            answer = guest_client.ask(self.guest.lab.guests, self.guest.address, "status", timeout=1)
            self.acknowledged = max(self.acknowledged, answer.get("disk_records", 0))


class Watcher:
    """Looks at both nodes and the guest until it is left, and keeps what must never be."""

    def __init__(self, guest):
        self.wrong = []
        epochs = Epochs(self)
        self.records = Records(self, guest)
        self.watches = [self.records, VcpuWatch(self, guest.lab),
                        *(ApiWatch(self, node, [guest.name], epochs) for node in guest.lab.nodes)]

    def violation(self, what):
        self.wrong.append(what)

    def count(self, _):
        """Nothing is counted here."""

    @property
    def acknowledged(self):
        return self.records.acknowledged

    def __enter__(self):
        for watch in self.watches:
            watch.start()
        return self

    def __exit__(self, *_):
        for watch in self.watches:
            watch.end()


class FaultLab:
    """Two nodes and one guest, which is on node1 before each cell."""

    holds_back = False  # outcomes.right()

    def __init__(self, lab):
        self.lab = lab
        self.nodes = lab.nodes
        self.gates = lab.directory / "gates"
        self.gates.mkdir(mode=0o777)
        self.gates.chmod(0o777)
        for node in self.nodes:
            allow_userfaultfd(node)
        disk = lab.pool / "images" / "records.raw"
        disk.write_bytes(b"\0" * (DISK_MIB << 20))
        os.chown(disk, VM_USER, VM_USER)
        self.guest = self._make_guest("faulty", f"{SHARED}/pool/images/records.raw,format=raw")
        self._load_guest()

    def _make_guest(self, name, disk):
        return Guest(self.lab, self.nodes[0], name, memory="128M", fill=False, disk=disk)

    def _start_daemon(self, node, **environment):
        node.start_daemon(**environment)

    def _leftovers(self, node):
        """What is left on a node besides its copies of the VM."""
        return leftovers(node, self.guest.pids(node))

    def _load_guest(self):
        self.guest.ask("fill", FILL_MIB, "text")
        self.guest.ask("disk", "/dev/vda", 50)
        self.guest.ask("dirty", DIRTY_MIB_S, "words")

    # --- a cell ---

    def run(self, cell):
        """Tries a cell: what became of it, in a few words. Violation says what must never be."""
        scenario = SCENARIOS[cell.scenario]
        self.idle = False  # there was nothing there that the fault could hit
        self.gate = self.gates / f"gate{len(list(self.gates.iterdir()))}"
        self._arm(cell, scenario)
        if scenario.busy:
            self.guest.ask("dirty", BUSY_MIB_S, "page")
        with Watcher(self.guest) as watcher:
            move = self._move(cell, scenario)
            try:
                killed = self._happen(cell, scenario, move)
                out = self._end(move)
            finally:
                self.gate.touch()
                self._heal()
                if move.poll() is None:
                    move.kill()
            self._settle()
            self._expect_daemons()
            result = self._judge(cell, move.returncode, out, killed, watcher)
        if watcher.wrong:
            raise Violation("; ".join(sorted(set(watcher.wrong))))
        self._judge_end(cell, result, out)
        self._back(cell, result)
        return "nothing to kill" if self.idle else result

    def _arm(self, cell, scenario):
        armed = list(scenario.armed)
        action = {"error": "error", "hang": f"delay={HANG_MS}"}.get(
            cell.fault, f"file={self.gate}")
        own = f"{cell.point}:{action}"
        if scenario.restarts is None:
            armed[cell.holder] = ",".join(filter(None, (armed[cell.holder], own)))
        self.armed_again = own
        for node, fault in zip(self.nodes, armed):
            node.stop_daemon()
            self._start_daemon(node, DROVER_FAULT=fault)

    def _move(self, cell, scenario):
        lane = ["--bandwidth", LANE] if scenario.busy else []
        patience = {"cut": ["--reconnect", "3"], "blip": ["--reconnect", "20"]}.get(cell.fault, [])
        return self.nodes[SOURCE].popen(
            "drover", "migrate", self.guest.name, "node2", "--json", *scenario.options, *lane,
            *patience, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True)

    def _happen(self, cell, scenario, move):
        """Comes to the point and lets it go wrong. True when a hypervisor that had the VM, or parts
        of it, was killed."""
        if scenario.restarts is not None:
            node = self.nodes[scenario.restarts]
            wait_for(lambda: node.daemon_pid is None, "the death of droverd", 60)
            self._start_daemon(node, DROVER_FAULT=self.armed_again)
        if cell.fault in ("error", "hang"):
            return False
        reached = Path(f"{self.gate}.reached")
        wait_for(lambda: reached.exists() or move.poll() is not None, f"{cell.point}", 60)
        if not reached.exists():
            raise Violation(f"{cell.point} was not passed: {move.communicate()[0]}")
        killed = getattr(self, "_" + cell.fault.replace("-", "_"))(cell)
        self.gate.touch()
        return killed

    # --- what goes wrong ---

    def _droverd(self, cell):
        self.nodes[cell.side].stop_daemon(signal.SIGKILL)
        self.gate.touch()
        time.sleep(AWAY_S)
        self._start_daemon(self.nodes[cell.side])
        return False

    def _hypervisor(self, cell):
        node = self.nodes[cell.side]
        pids = self.guest.pids(node)
        self.idle = not pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Where the other copy cannot be let run, the source's is the only one.
        only = cell.scenario == "given back" and cell.side == SOURCE
        return bool(pids) and (is_switched(cell) or only or self._owner() == node.name)

    def _drover_wire(self, cell):
        pids = wires(self.nodes[cell.side])
        self.idle = not pids
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return False

    def _link(self, cell, how):
        subprocess.run(["ip", "-n", self.nodes[cell.side].namespace, "link", "set", "mig0", how],
                       check=True)

    def _cut(self, cell, seconds=CUT_S):
        self._link(cell, "down")
        self.gate.touch()
        time.sleep(seconds)
        self._link(cell, "up")
        return False

    def _blip(self, cell):
        return self._cut(cell, BLIP_S)

    def _read_only(self, cell):
        node, vms = self.nodes[cell.side], f"{SHARED}/pool/vms"
        node.run("mount", "--bind", vms, vms)
        # It is refused while a file there is open for writing.
        wait_for(lambda: node.run("mount", "-o", "remount,bind,ro", vms, check=False).returncode == 0,
                 "a pool that is read-only")
        self.gate.touch()
        time.sleep(BLIP_S)
        node.run("umount", "-l", vms)
        return False

    def _full(self, _):
        filler = self.lab.pool / "filler"
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"\1" * (1 << 16))
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"\1" * 512)
        finally:
            os.close(fd)
        self.gate.touch()
        time.sleep(BLIP_S)
        filler.unlink()
        return False

    # --- afterwards ---

    def _heal(self):
        """Whatever went wrong goes wrong no longer."""
        for node in self.nodes:
            subprocess.run(["ip", "-n", node.namespace, "link", "set", "mig0", "up"], check=True)
        (self.lab.pool / "filler").unlink(missing_ok=True)

    def _end(self, move):
        try:
            return move.communicate(timeout=END_S)[0]
        except subprocess.TimeoutExpired:
            raise Violation(f"drover migrate does not end within {END_S} s") from None

    def _migrations(self, node):
        _, answer = node.api("GET", "/v1/migrations")
        return [m for m in answer["migrations"] if m["vm"] == self.guest.name]

    def _settle(self):
        """Until no side has anything left to do."""
        self._expect_daemons()
        for node in self.nodes:
            try:
                wait_for(lambda node=node: all(m["state"] not in UNFINISHED
                                               for m in self._migrations(node)), "its end", END_S)
            except AssertionError:
                raise Violation(f"a migration does not end on {node.name}: "
                                f"{self._migrations(node)[0]}") from None

    def _expect_daemons(self):
        """Those that were killed have been started again: one that is not there ended by itself."""
        for node in self.nodes:
            if node.daemon_pid is None:
                raise Violation(f"droverd on {node.name} has ended by itself")

    def _owner(self):
        _, info = self.nodes[SOURCE].api("GET", f"/v1/vms/{self.guest.name}")
        return info.get("node") or ""

    def _judge(self, cell, status, out, killed, watcher):
        copies = {node.name: self.guest.pids(node) for node in self.nodes}
        allowed = 0 if killed or AGAIN in right(cell, self.idle, self.holds_back) else 1
        try:
            wait_for(lambda: allowed <= sum(len(self.guest.pids(n)) for n in self.nodes) <= 1,
                     "one copy", 30)
        except AssertionError:
            raise Violation(f"hypervisors: {copies}; {out}") from None
        copies = {node.name: self.guest.pids(node) for node in self.nodes}
        where = next((name for name, pids in copies.items() if pids), None)
        broken = killed and where and is_switched(cell)
        self._judge_words(cell, status, out, where, killed)
        if where and not broken:
            self._judge_copy(where, watcher)
        self._judge_rest()
        if broken:
            node = next(n for n in self.nodes if n.name == where)
            drover(node, "stop", self.guest.name, "--timeout", "0")
            where = None
        if not where:
            where = self._start_again(watcher)
            return f"started again on {where}"
        return "arrived" if where == "node2" else "stayed"

    def _judge_end(self, cell, result, out):
        """It has become of the VM what must become of it."""
        ends = right(cell, self.idle, self.holds_back)
        if not any(result.startswith(end) for end in ends):
            raise Violation(f"it {result}, and should have {' or '.join(sorted(ends))}: "
                            f"{out[-1000:]}")

    def _judge_words(self, cell, status, out, where, killed):
        """What was said is true."""
        if status == 0 and where != "node2" and not killed:
            raise Violation(f"success was reported, and it is on {where}: {out}")
        said = re.search(r"and runs on (node\d)|it runs on (node\d)", out)
        if said and not killed and (said.group(1) or said.group(2)) != where:
            raise Violation(f"it was said to run on {said.group(0)}, and is on {where}: {out}")
        if "cannot be claimed" in out:
            raise Violation(f"what was said is no reason: {out}")
        newest = self._migrations(self.nodes[SOURCE])
        if cell.point == "migrate.src.before_journal" or not newest or killed:
            return
        if (newest[0]["state"] == "done") != (where == "node2"):
            # A destination that does not answer in time is not known to run it.
            if newest[0]["state"] != "failed" or "does not answer" not in str(newest[0]):
                raise Violation(f"recorded as {newest[0]['state']}, and it is on {where}: {out}")

    def _judge_copy(self, where, watcher):
        for node in self.nodes:
            _, info = node.api("GET", f"/v1/vms/{self.guest.name}")
            if info["node"] != where:
                raise Violation(f"it is on {where}, and {node.name} says {info}")
            if node.name == where and info["state"] != "running":
                raise Violation(f"it is {info['state']} on {where}")
        guest_client.wait_ready(self.lab.guests, self.guest.address, 30)
        self.guest.ask("stop")
        result = self.guest.ask("check")
        if result["bad"] or not result["pages"]:
            raise Violation(f"its memory is wrong: {result}")
        before = self.guest.ask("status")["disk_records"]
        wait_for(lambda: self.guest.ask("status")["disk_records"] > before, "another record", 30)
        self._judge_disk(watcher)

    def _judge_disk(self, watcher):
        self.guest.ask("disk", "/dev/vda", 0)
        result = self.guest.ask("diskcheck", "/dev/vda")
        if result["bad"] or result["records"] < watcher.acknowledged:
            raise Violation(f"its disk lost records: {result}, {watcher.acknowledged} were "
                            "acknowledged")

    def _judge_rest(self):
        """Nothing is left over; both nodes say the same."""
        for node in self.nodes:
            try:
                wait_for(lambda node=node: self._leftovers(node) == [], "the end", 60)
            except AssertionError:
                raise Violation(f"left on {node.name}: {self._leftovers(node)}") from None
            _, answer = node.api("GET", "/v1/tasks")
            tasks = [t for t in answer["tasks"] if t["state"] in ("queued", "waiting", "running")]
            if tasks:
                raise Violation(f"tasks in progress on {node.name}: {tasks}")
        temporary = list((self.lab.pool / "vms" / self.guest.name).glob(".tmp*"))
        # The file of a claim whose claimer was killed is removed a day later.
        if len(temporary) > 1:
            raise Violation(f"left on the pool: {temporary}")
        for file in temporary:
            file.unlink()

    def _starts(self, node):
        """False while droverd still clears up after its hypervisor."""
        status, documents = drover(node, "start", self.guest.name, check=False)
        if status and error_of(documents)["kind"] != "busy":
            raise AssertionError(f"it does not start on {node.name}: {documents}")
        return status == 0

    def _start_again(self, watcher):
        owner = wait_for(lambda: (o := self._owner()) is not None and o or "nobody", "an owner")
        node = next((n for n in self.nodes if n.name == owner), self.nodes[SOURCE])
        wait_for(lambda: self._starts(node), f"{self.guest.name} to be free")
        guest_client.wait_ready(self.lab.guests, self.guest.address, 60)
        self._judge_disk(watcher)
        return node.name

    def _back(self, cell, result):
        """To node1, by an ordinary move where it has one to go, and at work as before."""
        for node in self.nodes:
            node.stop_daemon()
            self._start_daemon(node)
        if result == "stayed" and cell.scenario == "post-copy":
            # A hypervisor whose switch was taken back moves it no more.
            drover(self.nodes[SOURCE], "stop", self.guest.name, "--timeout", "0")
            drover(self.nodes[SOURCE], "start", self.guest.name)
            guest_client.wait_ready(self.lab.guests, self.guest.address, 60)
        for node in self.nodes:
            if self.guest.pids(node) and node is not self.nodes[SOURCE]:
                drover(node, "migrate", self.guest.name, "node1")
        if not self.guest.pids(self.nodes[SOURCE]):
            raise Violation(f"it cannot be brought back to node1 ({result})")
        self._load_guest()


class BhyveFaultLab(FaultLab):
    """The same with bhyve, over the stand-in of tests/bhyve-shim, whose QEMU runs the guest."""

    holds_back = True

    def _make_guest(self, name, disk):
        return bhyvelab.BhyveGuest(self.lab, self.nodes[0], name, fill=False, options=("--disk", disk))

    def _start_daemon(self, node, **environment):
        bhyvelab.start_daemon(node, **environment)

    def _leftovers(self, node):
        pids = set(self.guest.pids(node))
        return [what for what in leftovers(node, pids) if what.split()[-1] not in
                {str(pid) for pid in node.strangers() if parent_of(pid) in pids}]


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def keep_logs(lab, directory):
    """Copies the nodes' logs to where they outlive the lab."""
    directory.mkdir(parents=True, exist_ok=True)
    for node in lab.nodes:
        with contextlib.suppress(OSError):
            shutil.copyfile(node.log, directory / f"{node.name}.log")
