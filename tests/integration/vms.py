"""What the integration tests share: VMs in a lab, and what must be true after a move."""

import itertools
import json
import threading
import time

from droverlab import guest_client, net  # pylint: disable=unused-import
from droverlab.lab import SHARED, VM_USER

# The guest fills and checks this much memory: enough for several rounds.
FILL_MIB = 32

_addresses = itertools.count(10)


def wait_for(condition, what, timeout=60):
    """Waits until condition() is true and returns what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout} s")
        time.sleep(0.02)


def drover(node, *arguments, check=True, timeout=120):
    """drover on a node: (exit status, the JSON documents that it printed)."""
    result = node.run("drover", *arguments, "--json", check=False, timeout=timeout)
    try:
        documents = [json.loads(result.stdout)]
    except ValueError:
        documents = [json.loads(line) for line in result.stdout.splitlines() if line.strip()]
    if check and result.returncode != 0:
        raise AssertionError(f"drover {' '.join(map(str, arguments))} on {node.name} ended with "
                             f"{result.returncode}: {result.stdout}{result.stderr}\n"
                             f"{node.name}'s log ends with:\n{node.log_tail(30)}")
    return result.returncode, documents


def error_of(documents):
    """The error that drover --json printed."""
    return next(d["error"] for d in documents if d.get("error"))


class Guest:
    """A tiny guest with memory that it can check."""

    def __init__(self, lab_, node, name, memory="192M", disk=None, fill=True,
                 options=()):
        self.lab, self.name = lab_, name
        self.address = f"10.77.0.{next(_addresses)}"
        arguments = ["create", name, "--memory", memory, "--kernel", f"{SHARED}/guests/vmlinuz",
                     "--initrd", f"{SHARED}/guests/tiny.initrd", "--append",
                     f"console=ttyS0 quiet drover.ip={self.address}/24", "--nic", "bridge=br0"]
        drover(node, *arguments, *options, *(["--disk", disk] if disk else []))
        drover(node, "start", name)
        guest_client.wait_ready(lab_.guests, self.address, 60)
        if fill:
            self.ask("fill", FILL_MIB, "text")

    def ask(self, *command):
        answer = guest_client.ask(self.lab.guests, self.address, *command)
        assert "error" not in answer, answer
        return answer

    def assert_memory_is_right(self):
        """Every page that the guest filled or changed is what it wrote."""
        result = self.ask("check")
        assert result["bad"] == 0, result
        assert result["pages"] > 0, result

    def pids(self, node):
        """Hypervisor processes of this VM on a node."""
        return [pid for pid, words in node.processes().items() if "qemu-system" in words[0] and any(
            word.startswith(f"guest={self.name},") for word in words)]

    def assert_runs_only_on(self, node):
        """One hypervisor, there; every node says so; no trace of a migration elsewhere."""
        for other in self.lab.nodes:
            count = 1 if other.name == node.name else 0
            wait_for(lambda other=other, count=count: len(self.pids(other)) == count,
                     f"{count} hypervisors of {self.name} on {other.name}")
        for other in self.lab.nodes:
            _, (info,) = drover(other, "show", self.name)
            assert info["node"] == node.name, info
        _, (info,) = drover(node, "show", self.name)
        assert info["state"] == "running", info
        self.assert_memory_is_right()

    def remove(self, node):
        drover(node, "stop", self.name, "--timeout", "0")
        drover(node, "rm", self.name, "--yes")


class Watch:
    """The outside client, in a thread, while something else happens."""

    def __init__(self, guest):
        self.probe = guest_client.Probe(guest.lab.guests, guest.address)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.probe.run, args=(self.done.is_set,))

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: self.probe.received, "an answer of the guest")
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    @property
    def result(self):
        return self.probe.result()


def allow_userfaultfd(node):
    """What docs/operations.md asks of an administrator, in the node's own mount namespace."""
    node.run("sh", "-c", f"test -e /run/uffd || {{ mknod /run/uffd c 10 $(awk '$2 == \"userfaultfd\""
             f" {{ print $1 }}' /proc/misc) && chgrp {VM_USER} /run/uffd && chmod 0660 /run/uffd &&"
             " mount -n --bind /run/uffd /dev/userfaultfd; }")


def postcopy_lab(make_lab):
    """Two nodes that allow post-copy."""
    lab = make_lab("two", nodes=2)
    for node in lab.nodes:
        allow_userfaultfd(node)
    return lab


def wires(node):
    """Data movers of a node."""
    return [pid for pid, words in node.processes().items() if words[0].endswith("drover-wire")]


def leftovers(node, allowed):
    """Processes of a node beyond droverd, the holder and `allowed`; taps; sockets of migrations."""
    left = [f"process {pid}" for pid in node.strangers() if pid not in allowed]
    links = json.loads(node.run("ip", "-j", "link", "show", "type", "tun").stdout or "[]")
    left += [f"tap {link['ifname']}" for link in links if link][len(allowed):]
    find = "ls -d /run/drover/vms/*/migrate.sock 2>/dev/null || true"
    return left + node.run("sh", "-c", find).stdout.split()
