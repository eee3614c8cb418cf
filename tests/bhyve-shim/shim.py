"""What the programs of the shim share.

A test-only stand-in for FreeBSD's bhyve(8), bhyvectl(8) and grub-bhyve on Linux: it takes their
command lines, and behaves as they do in exit statuses, in what is in /dev/vmm, in timing and on the
wire (docs/bhyve.md has what is copied from where). Underneath runs a QEMU, whose memory is a file
that both map; its device state, as a QEMU stream without memory, takes the place of bhyve's kernel
structures and devices.

$BHYVE_SHIM names a directory. In it, DIR/vmm/NAME stands for /dev/vmm/NAME, and DIR/state/NAME.* is
what the kernel would know of the VM. $BHYVE_SHIM_QEMU is the QEMU, $BHYVE_SHIM_DATA its firmware.
$BHYVE_SHIM_WITHOUT has names of options, with commas between them, that this bhyve was not built with.
DIR/fails is a file with the names of what fails: "restore" (bhyve -r), "suspend" (bhyve dies half
way).
$BHYVE_SHIM_EOF ("resume" or "exit") is what a source's stack holds when the connection ends instead of
an answer; $BHYVE_SHIM_MODEL is the CPU's model string. $BHYVE_SHIM_RUNS is a file, one for all
nodes, in which it is written when a guest's CPUs run, so that two that do at once are seen.
"""

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

DIRECTORY = Path(os.environ.get("BHYVE_SHIM", "/nonexistent"))
VMM, STATE = DIRECTORY / "vmm", DIRECTORY / "state"
WITHOUT = set(filter(None, os.environ.get("BHYVE_SHIM_WITHOUT", "").split(",")))
FAILS = DIRECTORY / "fails"

# bhyve(8): exit status
REBOOT, POWEROFF, HALT, TRIPLE_FAULT, ERROR = range(5)


def state(name, suffix):
    return STATE / f"{name}.{suffix}"


def create(name):
    """hw.vmm.create: nothing is left of one that had the name before."""
    VMM.mkdir(parents=True, exist_ok=True)
    STATE.mkdir(parents=True, exist_ok=True)
    destroy(name)
    (VMM / name).touch()


def exists(name):
    return (VMM / name).exists()


def destroy(name):
    """hw.vmm.destroy"""
    (VMM / name).unlink(missing_ok=True)
    for file in STATE.glob(f"{name}.*"):
        if file.stem == name:
            file.unlink(missing_ok=True)


def note_run(name):
    """A vCPU runs: its counters are not 0 any more, and grow until it is paused."""
    state(name, "exits").write_text(f"{exits(name) + 1234} {time.monotonic()}\n")
    note(name, "runs")


def note_pause(name):
    """Its counters stand still."""
    state(name, "exits").write_text(f"{exits(name)}\n")
    note(name, "paused")


def still_runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX"
    except OSError:
        return False


def note(name, what):
    """A line NAME PID runs|paused, and NAME PID PID twice for two that run at once."""
    file = os.environ.get("BHYVE_SHIM_RUNS")
    if not file:
        return
    with open(file, "a+", encoding="ascii") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        last = {}
        for line in log:
            words = line.split()
            if words[0] == name and words[2] in ("runs", "paused"):
                last[int(words[1])] = words[2]
        for pid, state_of in last.items():
            if what == "runs" and pid != os.getpid() and state_of == "runs" and still_runs(pid):
                log.write(f"{name} {os.getpid()} {pid} twice\n")
        log.write(f"{name} {os.getpid()} {what}\n")


def fails(what):
    return FAILS.exists() and what in FAILS.read_text().split()


def exits(name):
    file = state(name, "exits")
    words = file.read_text().split() if file.exists() else []
    count = int(words[0]) if words else 0
    return count + int((time.monotonic() - float(words[1])) * 1000) if words[1:] else count


def read_json(file):
    return json.loads(file.read_text())


def write_json(file, value):
    temporary = file.with_name(file.name + "#")
    temporary.write_text(json.dumps(value))
    temporary.rename(file)


def fail(program, message, status=1):
    print(f"{program}: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


class Qmp:
    """QEMU's control socket."""

    def __init__(self, path, deadline_s=20):
        self.sock = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + deadline_s
        while True:
            try:
                self.sock.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        self.file = self.sock.makefile("rw")
        self.events = []
        self._read()
        self.run("qmp_capabilities")

    def _read(self):
        line = self.file.readline()
        if not line:
            raise EOFError("QEMU has ended")
        return json.loads(line)

    def run(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()
        while True:
            answer = self._read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def wait_migration(self, limit_s=60):
        """Until the state of the devices, some 100 kB, is written or read."""
        end = time.monotonic() + limit_s
        while True:
            status = self.run("query-migrate").get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise RuntimeError(f"device state: {status}")
            if time.monotonic() > end:
                raise RuntimeError(f"device state: still {status} after {limit_s} s")
            time.sleep(0.005)
