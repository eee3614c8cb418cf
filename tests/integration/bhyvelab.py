"""Labs whose nodes run VMs by bhyve: by the shim of tests/bhyve-shim (docs/bhyve.md)."""

import contextlib
import itertools
import os
import re
import signal
import subprocess

from droverlab import guest_client
from droverlab.lab import SHARED
from droverlab.paths import ROOT
from vms import FILL_MIB, Guest, drover, wait_for

SHIM = ROOT / "tests" / "bhyve-shim"
DIRECTORY = f"{SHARED}/bhyve"
QEMU = f"{SHARED}/qemu/10.0"
MEMORY = "160M"

# What bhyve of a FreeBSD release with BHYVE_SNAPSHOT has not.
RELEASED = {"BHYVE_SHIM_WITHOUT": "-R,--migrate,--migrate-live"}

_addresses = itertools.count(150)


def environment(node, **more):
    """droverd's, which its bhyve inherits."""
    return {"BHYVE_SHIM": DIRECTORY, "BHYVE_SHIM_RUNS": str(node.lab.directory / "runs"), "BHYVE_SHIM_QEMU": f"{QEMU}/bin/qemu-system-x86_64",
            "BHYVE_SHIM_DATA": f"{QEMU}/data", "BHYVE_SHIM_MODEL": "Shim CPU @ 1.00GHz", **more}


def start_daemon(node, **more):
    return node.start_daemon(**environment(node, **more))


def bhyve_lab(make_lab, name="bhyve", nodes=2, pool_mib=None, **more):
    """Nodes with droverd for bhyve, in one cluster; `more` is added to droverd's environment."""
    lab = make_lab(name, nodes=nodes, bare=True, pool_mib=pool_mib)
    for node in lab.nodes:
        conf = node.path(f"{SHARED}/drover.conf")
        conf.write_text(conf.read_text().replace("[node]\n", "[node]\nhypervisor=bhyve\n") +
                        f"\n[bhyve]\nbinary={SHIM}/bhyve\nbhyvectl={SHIM}/bhyvectl\n"
                        f"grub={SHIM}/grub-bhyve\nbhyveload={SHIM}/bhyveload\n"
                        f"bootrom={lab.directory}/rom/BHYVE_UEFI.fd\nvmm={DIRECTORY}/vmm\nnmdm={DIRECTORY}\n")
        node.run("mkdir", "-p", f"{DIRECTORY}/vmm", f"{DIRECTORY}/state")
        node.run("mkdir", "-m", "1777", "/run/faults")
        start_daemon(node, **more)
    lab._form_cluster(lab.nodes)  # pylint: disable=protected-access
    return lab


class BhyveGuest(Guest):
    """A tiny guest of bhyve, started by grub-bhyve. `environment` is for droverds that are started."""

    environment = {}
    options = ()  # of `drover migrate`

    def __init__(self, lab_, node, name, fill=True, options=()):  # pylint: disable=super-init-not-called
        self.lab, self.name = lab_, name
        self.address = f"10.77.0.{next(_addresses)}"
        drover(node, "create", name, "--memory", MEMORY, "--hypervisor", "bhyve",
               "--loader", "grub", "--kernel", f"{SHARED}/guests/vmlinuz", "--initrd",
               f"{SHARED}/guests/tiny.initrd", "--append",
               f"console=ttyS0 quiet drover.ip={self.address}/24", "--nic", "bridge=br0", *options)
        drover(node, "start", name)
        guest_client.wait_ready(lab_.guests, self.address, 60)
        if fill:
            self.ask("fill", FILL_MIB, "text")

    def pids(self, node):
        return [pid for pid, words in node.processes().items()
                if len(words) > 2 and words[-1] == self.name and words[2] == f"{SHIM}/bhyve"]

    def guests_that_run(self, node):
        """QEMUs under this VM's bhyve on a node: whatever is called bhyve, this is what would run."""
        return [pid for pid, words in node.processes().items() if "qemu-system" in words[0] and
                any(re.search(rf"/{re.escape(self.name)}\.qmp,", word) for word in words)]


def suspended_files(lab_):
    """The files of guests that move as files, on all nodes."""
    return [str(file) for node in lab_.nodes for file in node.path(f"{SHARED}/state").glob("suspended/*.*")]


@contextlib.contextmanager
def failing(node, what):
    """The node's bhyve fails in this."""
    file = node.path(f"{DIRECTORY}/fails")
    file.write_text(what)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def cut_off(node):
    """The node reaches no other node, and none reaches it; the pool is there as before."""
    link = ["ip", "-n", node.namespace, "link", "set", "mig0"]
    yield lambda: subprocess.run([*link, "down"], check=True)
    subprocess.run([*link, "up"], check=True)


@contextlib.contextmanager
def small_place(node):
    """The place of suspended guests has room for one; gives a function that takes it away."""
    place = f"{SHARED}/state/suspended"
    node.run("mkdir", "-p", place)
    node.run("mount", "-t", "tmpfs", "-o", "size=240M", "tmpfs", place)
    try:
        yield lambda: node.run("dd", "if=/dev/zero", f"of={place}/full", "bs=1M", "count=160")
    finally:
        node.run("umount", "-l", place)


# --- faults ---

# drover-wire makes a file there, too, as a user of its own.
FAULTS = "/run/faults"
HOLD = f"{FAULTS}/held"


class Cell:
    """While `holder`'s process (0: the source's) stands at `point`, `victim` on `side` is killed: "droverd",
    "drover-wire", "bhyve". `lost`: the guest that was the VM is killed: none may be left, and it can be
    started. None: that depends on who was faster."""

    def __init__(self, holder, point, victim, side, lost=False, core=False):
        self.holder, self.point, self.victim, self.side = holder, point, victim, side
        self.lost, self.core = lost, core

    def __str__(self):
        return f"{self.point}: {self.victim} of the {('source', 'destination')[self.side]}"


SOURCE, DESTINATION = 0, 1


def cells():
    """Both droverds, movers and bhyves at each step around the handover."""
    points = [(SOURCE, "wire.send.half"), (SOURCE, "migrate.src.before_stop"),
              (DESTINATION, "wire.recv.held"), (SOURCE, "migrate.src.before_handover"),
              (DESTINATION, "migrate.dst.before_claim"), (DESTINATION, "migrate.dst.after_claim"),
              (DESTINATION, "wire.recv.before_release"), (DESTINATION, "wire.recv.after_release"),
              (DESTINATION, "migrate.dst.before_answer"), (SOURCE, "migrate.src.before_end")]
    here, there = ["wire.send.half", "migrate.src.before_stop"], ["migrate.dst.before_answer",
                                                                  "migrate.src.before_end"]
    core = {("migrate.src.before_stop", "drover-wire", SOURCE),
            ("migrate.src.before_handover", "droverd", SOURCE),
            ("migrate.dst.after_claim", "droverd", DESTINATION),
            ("wire.recv.before_release", "drover-wire", DESTINATION)}
    for holder, point in points:
        for victim in ("droverd", "drover-wire", "bhyve"):
            for side in (SOURCE, DESTINATION):
                lost = victim == "bhyve" and point in (here, there)[side]
                if (point, victim, side) in (("wire.recv.held", "bhyve", SOURCE),
                                             ("wire.recv.after_release", "bhyve", DESTINATION)):
                    lost = None
                yield Cell(holder, point, victim, side, lost, (point, victim, side) in core)


def movers(node):
    return [pid for pid, words in node.processes().items() if words[0].endswith("drover-wire")]


def kill(node, guest, victim):
    if victim == "droverd":
        node.stop_daemon(signal.SIGKILL)
        return
    for pid in movers(node) if victim == "drover-wire" else guest.pids(node):
        os.kill(pid, signal.SIGKILL)


def ended(node, guest):
    """Whether no migration of the guest goes on, by what the node knows."""
    _, (answer,) = drover(node, "migration", "ls", check=False)
    return "migrations" in answer and not [
        m for m in answer["migrations"]
        if m["vm"] == guest.name and m["state"] in ("running", "undecided")]


def assert_never_twice(lab_):
    runs = lab_.directory / "runs"
    assert not [line for line in runs.read_text().splitlines() if line.endswith("twice")]


def running(lab_, guest):
    """The nodes where a guest of the VM runs."""
    return [node for node in lab_.nodes if guest.guests_that_run(node)]


def newest(node, guest):
    """The id of the guest's newest migration."""
    _, (answer,) = drover(node, "migration", "ls")
    return next(m["id"] for m in answer["migrations"] if m["vm"] == guest.name)


def start_missing(lab_, guest):
    for node in lab_.nodes:
        if node.daemon_pid is None:
            start_daemon(node, **guest.environment)


def hold_and(lab_, guest, holder, point, act, late=False):
    """A move from where the guest is; when `holder`'s process stands at `point`, act() and let it go on.
    A droverd that was killed is started again at once, or `late`: when the move has ended. Returns when
    all has ended, with every droverd up."""
    here = running(lab_, guest)[0]
    there = next(node for node in lab_.nodes if node.name != here.name)
    held = holder.path(HOLD)
    reached = held.with_name(held.name + ".reached")
    held.unlink(missing_ok=True)
    reached.unlink(missing_ok=True)
    holder.stop_daemon()
    start_daemon(holder, DROVER_FAULT=f"{point}:file={HOLD}", **guest.environment)
    move = here.popen("drover", "migrate", guest.name, there.name, *guest.options, "--json",
                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(reached.exists, f"{point} of {holder.name}")
    act()
    held.touch()
    if not late:
        start_missing(lab_, guest)
    move.communicate(timeout=120)
    start_missing(lab_, guest)
    for node in lab_.nodes:
        wait_for(lambda node=node: ended(node, guest), f"the end of it on {node.name}", 120)


def run_cell(lab_, guest, cell, late=False):
    """The guest runs on one node before and after."""
    here = running(lab_, guest)[0]
    there = next(node for node in lab_.nodes if node.name != here.name)
    sides = (here, there)
    hold_and(lab_, guest, sides[cell.holder], cell.point,
             lambda: kill(sides[cell.side], guest, cell.victim), late)
    assert_one_copy(lab_, guest, cell)
    sides[cell.holder].stop_daemon()
    start_daemon(sides[cell.holder], **guest.environment)


def assert_one_copy(lab_, guest, cell):
    assert_never_twice(lab_)
    if cell.lost:
        wait_for(lambda: not running(lab_, guest), "the end of what is left of the VM")
    if cell.lost or (cell.lost is None and not running(lab_, guest)):
        wait_for(lambda: 0 in [drover(node, "start", guest.name, check=False)[0]
                               for node in lab_.nodes], "a start of the VM")
        guest_client.wait_ready(lab_.guests, guest.address, 60)
        guest.ask("fill", FILL_MIB, "text")
    wait_for(lambda: len(running(lab_, guest)) == 1, "one copy of the VM")
    guest.assert_runs_only_on(running(lab_, guest)[0])
    for node in lab_.nodes:
        wait_for(lambda node=node: not movers(node), f"the end of {node.name}'s data movers")


def warm_cells():
    """The same for guests that move as files. From the suspension on there is no bhyve, until the
    destination has claimed the VM; what dies before all is written takes the guest with it, and from
    the moment on when it has run elsewhere its files are old."""
    points = [(SOURCE, "hv.suspend.before"), (SOURCE, "hv.suspend.after"), (SOURCE, "wire.send.half"),
              (DESTINATION, "migrate.dst.before_loaded"), (DESTINATION, "wire.recv.before_ack"),
              (SOURCE, "migrate.src.before_handover"), (DESTINATION, "migrate.dst.before_claim"),
              (DESTINATION, "migrate.dst.after_claim"), (DESTINATION, "hv.restore.before"),
              (DESTINATION, "hv.restore.after"), (DESTINATION, "migrate.dst.after_resume"),
              (DESTINATION, "migrate.dst.before_answer"), (SOURCE, "migrate.src.before_end")]
    lost = {("hv.suspend.before", "bhyve", SOURCE), ("hv.restore.after", "bhyve", DESTINATION),
            ("migrate.dst.after_resume", "bhyve", DESTINATION),
            ("migrate.dst.before_answer", "bhyve", DESTINATION),
            ("migrate.src.before_end", "bhyve", DESTINATION)}
    core = {("hv.suspend.after", "droverd", SOURCE), ("migrate.dst.after_claim", "droverd", DESTINATION)}
    for holder, point in points:
        for victim in ("droverd", "drover-wire", "bhyve"):
            for side in (SOURCE, DESTINATION):
                cell = (point, victim, side)
                if victim != "bhyve" or cell in lost:
                    yield Cell(holder, point, victim, side, cell in lost, cell in core)
