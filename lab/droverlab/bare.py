"""QEMU in the lab's nodes with nothing of drover: for the lab's own tests, and for what drover is
measured against."""

import json
import os
import signal
import socket
import subprocess
import time

from . import guests, net
from .lab import DEFAULT_QEMU, SHARED
from .paths import LabError


class Qmp:
    """A QMP connection. Events are kept with the time at which they were read."""

    def __init__(self, path, timeout=20):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.buffer = b""
        self.events = []
        self._read()
        self.execute("qmp_capabilities")

    def _read(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise LabError("QEMU closed its QMP connection.")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def execute(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps(message).encode())
        while True:
            answer = self._read()
            if "event" in answer:
                self.events.append((time.monotonic(), answer))
            elif "error" in answer:
                raise LabError(f"QEMU refuses {command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def _wait(self, deadline, wanted):
        seen = 0
        while True:
            for at, event in self.events[seen:]:
                if wanted(event["event"], event.get("data", {})):
                    return at, event
            seen = len(self.events)
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                event = self._read()
                self.events.append((time.monotonic(), event))
            finally:
                self.sock.settimeout(20)

    def wait(self, deadline, wanted):
        """The first event, old or new, for which wanted(name, data) is true. TimeoutError."""
        return self._wait(deadline, wanted)[1]

    def wait_event(self, name, timeout, **data):
        """The time at which an event of this name came whose data has these members."""
        try:
            return self._wait(time.monotonic() + timeout, lambda found, members: found == name and
                              data.items() <= members.items())[0]
        except TimeoutError:
            raise LabError(f"QEMU sent no {name} {data} within {timeout} s.") from None


class BareVM:
    """One QEMU process in a node, its network card on the node's br0."""

    def __init__(self, node, name, number, memory_mib=256, qemu=DEFAULT_QEMU, arguments=(),
                 incoming=False):
        self.node, self.name = node, name
        self.address = f"10.77.0.{number}"
        self.tap = f"t{number}"
        base = f"{SHARED}/qemu/{qemu}"
        self.qmp_path = f"/run/{name}.qmp"
        self.console = node.directory / f"{name}.console"
        net.batch(node.namespace, f"tuntap add {self.tap} mode tap",
                  f"link set {self.tap} master br0 up")
        self.process = node.popen(
            f"{base}/bin/qemu-system-x86_64", "-L", f"{base}/data", "-machine", "pc-q35-7.2",
            "-accel", "tcg", "-cpu", "qemu64", "-m", f"{memory_mib}M",
            "-display", "none", "-nodefaults", "-serial", f"file:{self.console}",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-netdev", f"tap,id=n0,ifname={self.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:{number:02x}",
            *(("-incoming", "defer") if incoming else ()), *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)
        self.qmp = self._connect()

    def _connect(self):
        deadline = time.monotonic() + 20
        path = self.node.path(self.qmp_path)
        while True:
            try:
                return Qmp(path)
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"QEMU for {self.name} does not come up ({error}): "
                                   f"{self.process.stdout.read().decode(errors='replace')}"
                                   if self.process.poll() is not None else str(error)) from error
                time.sleep(0.005)

    def end(self):
        """Ends QEMU at once and removes its tap."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        net.batch(self.node.namespace, f"link del {self.tap}")


def _boot(name, number):
    kernel, initrd, append = guests.boot(name, f"10.77.0.{number}")
    return "-kernel", kernel, "-initrd", initrd, "-append", append


def tiny(number):
    """Arguments of the tiny guest with the address 10.77.0.NUMBER."""
    return _boot("tiny", number)


def debian(number, disk):
    """Arguments of the debian guest with its root on the image `disk`."""
    return (*_boot("debian", number),
            "-drive", f"if=none,id=d0,file={disk},format=qcow2,cache=none",
            "-device", "virtio-blk-pci,drive=d0")


OPTIONAL_CAPABILITIES = ("multifd", "postcopy-ram", "xbzrle")


class MigrationEnded(LabError):
    """QEMU's migration came to no good end; `timeout` tells whether it was given up for that."""

    def __init__(self, message, timeout):
        super().__init__(message)
        self.timeout = timeout


def _set(vm, capabilities, parameters):
    states = {"events": True, "return-path": True,
              **{name: name in capabilities for name in OPTIONAL_CAPABILITIES}}
    vm.qmp.execute("migrate-set-capabilities", capabilities=[
        {"capability": name, "state": state} for name, state in states.items()])
    if parameters:
        vm.qmp.execute("migrate-set-parameters", **parameters)


def _follow(source, deadline, postcopy):
    """Waits until the source's migration is over."""
    over = ("completed", "failed", "cancelled")
    if postcopy:
        event = source.qmp.wait(deadline, lambda name, data: name == "MIGRATION_PASS" and
                                data["pass"] == 2 or data.get("status") in over)
        if event["event"] == "MIGRATION_PASS":
            source.qmp.execute("migrate-start-postcopy")
    return source.qmp.wait(deadline, lambda name, data: name == "MIGRATION" and
                           data["status"] in over)["data"]["status"]


def _give_up(source):
    """The end of a migration that takes too long: where the guest is now."""
    source.qmp.execute("migrate_cancel")
    return _follow(source, time.monotonic() + 20, postcopy=False)


def tls(folder):
    """Arguments for migrate(tls=True): the certificates of a folder that has them as QEMU wants them
    named, of both roles, for the name that is in them."""
    return [word for role in ("server", "client") for word in (
        "-object", f"tls-creds-x509,id={role},dir={folder},endpoint={role},verify-peer=on")]


TLS_NAME = "node2"


def migrate(source, destination, downtime_ms=300, bandwidth=0, timeout=120, capabilities=(),
            parameters=None, postcopy=False, tls=False):  # pylint: disable=redefined-outer-name
    """QEMU's own migration over TCP, with libvirt's defaults where nothing is said; returns
    (stream_s, query-migrate). postcopy: the guest is switched over after the first round. tls: by the
    certificates of tls(). MigrationEnded when it fails or takes longer: then the guest goes on at the
    source."""
    uri = f"tcp:{destination.node.address}:4444"
    for vm, role in ((source, "client"), (destination, "server")):
        _set(vm, capabilities, {**(parameters or {}), "tls-creds": role if tls else "",
                                "tls-hostname": TLS_NAME if tls and vm is source else ""})
    source.qmp.execute("migrate-set-parameters", downtime_limit=downtime_ms,
                       max_bandwidth=bandwidth)
    destination.qmp.execute("migrate-incoming", uri=uri)
    source.qmp.events.clear()  # it may have come here in the same way
    start = time.monotonic()
    source.qmp.execute("migrate", uri=uri)
    try:
        status, late = _follow(source, start + timeout, postcopy), False
    except TimeoutError:
        status, late = _give_up(source), True
    if status != "completed":
        why = source.qmp.execute("query-migrate").get("error-desc", "")
        raise MigrationEnded(f"not moved within {timeout} s" if late else f"{status}: {why}", late)
    destination.qmp.wait_event("RESUME", 20)
    return time.monotonic() - start, source.qmp.execute("query-migrate")
