"""What the integration tests share: VMs in a lab, and what must be true after a move."""

import contextlib
import itertools
import json
import threading
import time

from droverlab import guest_client, net  # pylint: disable=unused-import
from droverlab.lab import SHARED, VM_USER
from droverlab.paths import LabError

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


def migrations(node, guest):
    """The migrations of a guest that a node knows, the newest first; without those that a test
    before has left behind."""
    _, answer = node.api("GET", "/v1/migrations")
    return [m for m in answer["migrations"] if m["vm"] == guest.name and m["id"] not in guest.past]


def error_of(documents):
    """The error that drover --json printed."""
    return next(d["error"] for d in documents if d.get("error"))


class Guest:
    """A tiny guest with memory that it can check: `fill` MiB of it."""

    def __init__(self, lab_, node, name, memory="192M", disk=None, fill=FILL_MIB,
                 options=()):
        self.lab, self.name, self.past = lab_, name, set()
        self.address = f"10.77.0.{next(_addresses)}"
        arguments = ["create", name, "--memory", memory, "--kernel", f"{SHARED}/guests/vmlinuz",
                     "--initrd", f"{SHARED}/guests/tiny.initrd", "--append",
                     f"console=ttyS0 quiet drover.ip={self.address}/24", "--nic", "bridge=br0"]
        drover(node, *arguments, *options, *(["--disk", disk] if disk else []))
        drover(node, "start", name)
        guest_client.wait_ready(lab_.guests, self.address, 60)
        if fill:
            self.ask("fill", fill, "text")

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
        with contextlib.suppress(AssertionError):
            wait_for(lambda: self._state(node) == "running", "its running", 30)
        assert self._state(node) == "running", node.log_tail(30)
        self.assert_memory_is_right()

    def _state(self, node):
        _, (info,) = drover(node, "show", self.name)
        return info["state"]

    def remove(self, node):
        drover(node, "stop", self.name, "--timeout", "0")
        drover(node, "rm", self.name, "--yes")


class SharedGuest:
    """One guest for tests that come one after the other: to boot it takes longer than most of them.
    After a test that did not leave it whole, there is another one."""

    def __init__(self, lab, name, fill=FILL_MIB, postcopy=False):
        self.lab, self.name, self.fill = lab, name, fill
        # A hypervisor whose switch to post-copy was taken back is not moved again.
        self.whole = {"done"} if postcopy else {"done", "failed", "cancelled"}
        self.guest, self.number = None, 0

    def take(self):
        """The guest, on node1, with its memory filled anew and nothing that changes it."""
        if not (self.guest and self._is_whole() and self._is_brought_back()):
            self._remove()
            self.number += 1
            self.guest = Guest(self.lab, self.lab.nodes[0], f"{self.name}{self.number}", fill=0)
        guest_client.wait_ready(self.lab.guests, self.guest.address, 60)
        self.guest.ask("fill", self.fill, "text")
        # What is said of it from now on is said of the test that takes it.
        for node in self.lab.nodes:
            self.guest.past |= {m["id"] for m in migrations(node, self.guest)}
        return self.guest

    def rest(self):
        """Ends what changes the guest's memory, where it is still there."""
        if self.guest and any(self.guest.pids(node) for node in self.lab.nodes):
            with contextlib.suppress(LabError):
                guest_client.ask(self.lab.guests, self.guest.address, "stop", timeout=2)

    def _is_whole(self):
        """It runs, on one node, and nothing is being done with it."""
        states = {m["state"] for node in self.lab.nodes for m in migrations(node, self.guest)}
        _, info = self.lab.nodes[0].api("GET", f"/v1/vms/{self.guest.name}")
        copies = [node.name for node in self.lab.nodes for _ in self.guest.pids(node)]
        return (states <= self.whole and info.get("state") == "running" and
                copies == [info["node"]])

    def _is_brought_back(self):
        _, info = self.lab.nodes[0].api("GET", f"/v1/vms/{self.guest.name}")
        if info["node"] == "node1":
            return True
        node = self.lab.node(info["node"])
        return drover(node, "migrate", self.guest.name, "node1", check=False)[0] == 0

    def _remove(self):
        if not self.guest:
            return
        for node in self.lab.nodes:
            if self.guest.pids(node):
                drover(node, "stop", self.guest.name, "--hard", check=False)
        drover(self.lab.nodes[0], "rm", self.guest.name, "--yes", check=False)


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
    """Data movers of a node's migrations; what measures for an estimate is none."""
    measures = {"sample", "null"}
    return [pid for pid, words in node.processes().items() if words[0].endswith("drover-wire")
            and not any(word in measures or word.startswith("probe:") for word in words)]


def leftovers(node, allowed):
    """Processes of a node beyond droverd, the holder and `allowed`; taps; sockets of migrations."""
    left = [f"process {pid}" for pid in node.strangers() if pid not in allowed]
    links = json.loads(node.run("ip", "-j", "link", "show", "type", "tun").stdout or "[]")
    left += [f"tap {link['ifname']}" for link in links if link][len(allowed):]
    find = "ls -d /run/drover/vms/*/migrate.sock 2>/dev/null || true"
    return left + node.run("sh", "-c", find).stdout.split()


def assert_nothing_is_left(node, allowed=()):
    """Data movers and taps end a moment after the move has; after a failure the other side may take a
    while to see it: its connections must time out."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: leftovers(node, allowed) == [], "the end of what a move left", 60)
    assert leftovers(node, allowed) == [], node.log_tail(30)
