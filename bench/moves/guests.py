"""The guest that is moved, as QEMU alone runs it and as drover does: the debian guest, 1 vCPU,
1 GiB, each kind in a lab of its own."""

import json
import time

from droverlab import bare, guest_client, guests
from droverlab.lab import SHARED, Lab
from droverlab.paths import BUILD, QEMU, LabError
from droverlab.vm import VM

from . import mover
from .meter import Meter

MEMORY_MIB = 1024
# After its boot the guest is left alone this long, and until it is idle.
SETTLE_S = 10
IDLE_TIMEOUT_S = 60
IDLE_WINDOW_S = 2
IDLE_CPU = 0.3  # of one processor; under TCG its timer alone takes a tenth to a fifth
BOOT_TIMEOUT_S = 180
NUMBER = 20  # the guest's address: 10.77.0.20
ADDRESS = f"10.77.0.{NUMBER}"
IMAGE = "images/debian.qcow2"
CHECK_TIMEOUT_S = 300


class MoveFailed(LabError):
    """A move that did not come to its end; the guest may be where it was."""


class Timeout(MoveFailed):
    """It did not end within the time that it was given."""


class Guest:
    """One boot of the guest. Moves it between node1 and node2."""

    bare = True

    def __init__(self, commands):
        image = guests.guest("debian")[0]
        self.lab = Lab(BUILD / "bench" / "lab")
        self.lab.down()
        self.lab.up(nodes=2, bare=self.bare)
        self.notes = {}
        try:
            self.lab.add_image(image)
            self.at, self.to = self.lab.nodes
            self.start()
            guest_client.wait_ready(self.lab.guests, ADDRESS, BOOT_TIMEOUT_S)
            time.sleep(SETTLE_S)
            self._wait_idle()
            for command in commands:
                self.ask(*command)
        except BaseException:
            self.lab.down()
            raise

    def _wait_idle(self):
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while True:
            with Meter(self.at, self.to) as meter:
                time.sleep(IDLE_WINDOW_S)
            used = meter.seconds()["source_qemu"] / IDLE_WINDOW_S
            if used < IDLE_CPU:
                return
            if time.monotonic() > deadline:
                print(f"  the guest uses {used:.0%} of a processor and does not become idle")
                return

    def ask(self, *command, timeout=60):
        return guest_client.ask(self.lab.guests, ADDRESS, *command, timeout=timeout)

    def shape(self, rate_mbit):
        """The migration link's rate from now on; None: no limit."""
        for node in self.lab.nodes:
            node.run("tc", "qdisc", "del", "dev", "mig0", "root", check=False)
            if rate_mbit:
                node.run("tc", "qdisc", "add", "dev", "mig0", "root", "tbf", "rate",
                         f"{rate_mbit}mbit", "burst", "256k", "latency", "50ms")

    def foresee(self, config, limit_s):
        """Before a move, outside of what is measured."""

    def lives(self):
        try:
            guest_client.wait_ready(self.lab.guests, ADDRESS, timeout=10)
        except LabError:
            return False
        return True

    def check_memory(self):
        """Stops what changes the guest's memory, and compares every page with what was written."""
        if self.ask("status").get("pages"):
            self.ask("stop")
            found = self.ask("check", timeout=CHECK_TIMEOUT_S)
            if not found["ok"]:
                raise LabError(f"the guest's memory is wrong after the moves: {found}")

    def end(self):
        self.lab.down()

    def start(self):
        raise NotImplementedError

    def move(self, config, limit_s):
        """One move with a configuration of this kind: {"total_s", "stream_s"} and whatever else
        is known. The guest is at self.at before it; on success the two nodes change places."""
        raise NotImplementedError


class QemuGuest(Guest):
    """QEMU's own migration over TCP, with libvirt's defaults where a configuration says nothing:
    no limit of the bandwidth, 300 ms of downtime."""

    configs = {
        "default": {},
        "multifd-zstd": {"capabilities": ("multifd",),
                         "parameters": {"multifd-channels": 2, "multifd-compression": "zstd",
                                        "multifd-zstd-level": 1}},
        "xbzrle": {"capabilities": ("xbzrle",)},
        "postcopy": {"capabilities": ("postcopy-ram",), "postcopy": True},
        "tls": {"tls": True},
    }

    def start(self):
        self.certificates = BUILD / "bench" / "certificates"
        mover.make_certificates(self.certificates, bare.TLS_NAME)
        self.at.run(QEMU / "10.0/bin/qemu-img", "create", "-q", "-f", "qcow2", "-b",
                    f"{SHARED}/pool/{IMAGE}", "-F", "qcow2", f"{SHARED}/pool/bench.qcow2")
        self.vm = self._qemu(self.at)

    def _qemu(self, node, incoming=False):
        return bare.BareVM(node, "bench", NUMBER, MEMORY_MIB, incoming=incoming,
                           arguments=(*bare.debian(NUMBER, f"{SHARED}/pool/bench.qcow2"),
                                      *bare.tls(self.certificates)))

    def move(self, config, limit_s):
        start = time.monotonic()
        there = self._qemu(self.to, incoming=True)
        try:
            stream_s, _ = bare.migrate(self.vm, there, timeout=limit_s, **self.configs[config])
            total_s = time.monotonic() - start
        except bare.MigrationEnded as error:
            there.end()
            raise (Timeout if error.timeout else MoveFailed)(str(error)) from error
        except BaseException:
            there.end()
            raise
        self.left, self.vm = self.vm, there
        self.at, self.to = self.to, self.at
        return {"total_s": total_s, "stream_s": stream_s}

    def moved(self):
        """Ends the source's QEMU, after it has been measured."""
        self.left.end()


def estimated(report):
    """What was estimated for a move's total time, and whether that held; nothing where nothing
    was."""
    estimate = report.get("estimate")
    if not estimate:
        return {}
    total = estimate.get("compared", {}).get("total_ms", {})
    return {"estimate": {"total_ms": estimate["total_ms"], "inside": total.get("inside"),
                         "actual_ms": report["total_ms"]}}


class DroverGuest(Guest):
    """drover migrate."""

    bare = False
    configs = {"drover": ()}

    def start(self):
        self._index_image()
        self.vm = VM(self.lab, "bench", NUMBER)
        self.vm.create(self.at, "--disk",
                       f"disk0.qcow2,backing={IMAGE},backing_format=qcow2",
                       "--cpu", "qemu64",  # as QEMU's own has it
                       memory=f"{MEMORY_MIB}M", guest="debian")
        self.at.run("drover", "start", "bench")

    def _index_image(self):
        self.notes["base_image_indexed"] = False
        if self.at.run("drover", "image", "--help", check=False).returncode == 0:
            self.at.run("drover", "image", "index", IMAGE.rpartition("/")[2], timeout=120)
            self.notes["base_image_indexed"] = True

    def _command(self, config, limit_s):
        return ["drover", "migrate", "bench", self.to.name, *self.configs[config], "--timeout",
                str(limit_s), "--json"]

    def foresee(self, config, limit_s):
        """Has the move estimated: its report tells how far off that was."""
        self.at.run(*self._command(config, limit_s), "--check", check=False, timeout=60)

    def move(self, config, limit_s):
        command = self._command(config, limit_s)
        start = time.monotonic()
        run = self.at.run(*command, check=False, timeout=limit_s + 60)
        total_s = time.monotonic() - start
        try:
            said = json.loads(run.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise MoveFailed(f"drover migrate said {(run.stderr or run.stdout)[-500:]!r}") from None
        if run.returncode != 0:
            error = said.get("error") or {}
            raise (Timeout if error.get("kind") == "timeout" else MoveFailed)(
                error.get("message", str(said)))
        report = said["result"]["report"]
        self.at, self.to = self.to, self.at
        return {"total_s": total_s, "report": report, **estimated(report),
                "stream_s": (report["stream_ms"] + report["downtime_ms"]) / 1000}

    def moved(self):
        """Nothing is left: drover has ended the source's copy."""


KINDS = (QemuGuest, DroverGuest)
CONFIGS = {name: kind for kind in KINDS for name in kind.configs}
