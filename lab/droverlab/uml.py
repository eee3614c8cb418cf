"""Nodes with a kernel of their own: User Mode Linux in the node's namespaces.

For what this machine's kernel has not, like a client of NFS. Programs run at full speed there, and
system calls slowly. The node's files are this machine's, read-only, and /run/drover-lab, which is
the same inside and outside.
"""

import json
import subprocess
import sys

from . import net
from .lab import SHARED, SOCKET, Node
from .paths import ROOT
from .place import Place

FILES = ROOT / "lab" / "uml"
# Neither is on any network that leaves the node's namespace.
OUTSIDE, INSIDE = "192.0.2.1", "192.0.2.2"
MEMORY = "1536M"
# Its devices in their order, and the bridge in the namespace that each leads to.
CARDS = (("uml0", "sw0"), ("uml1", "sw1"), ("uml2", None))


class UmlNode(Node):
    """A node whose commands run in its own kernel."""

    def _cables(self):
        for bridge, port, other in (("sw0", "up0", self.lab.guests), ("sw1", "mig0", self.lab.link)):
            net.bridge(self.namespace, bridge)
            net.cable(self.namespace, port, other, self.name, "hub")
            net.batch(self.namespace, f"link set {port} master {bridge}")
        for card, bridge in CARDS:
            net.batch(self.namespace, f"tuntap add {card} mode tap", f"link set {card} up",
                      *([f"link set {card} master {bridge}"] if bridge else []))
        net.batch(self.namespace, f"addr add {OUTSIDE}/30 dev {CARDS[-1][0]}")

    def make(self, rate_mbit, server):
        net.add_namespace(self.namespace)
        self._cables()
        if rate_mbit:
            net.shape(self.namespace, "mig0", rate_mbit)
        (self.directory / "state").mkdir(parents=True)
        self._make_mounts([])
        self._boot()
        server.mount(self, f"{SHARED}/pool")

    def _boot(self):
        cards = [f"vec{i}:transport=tap,ifname={card},gro=1,mac=02:78:00:00:{self.number:02x}:0{i}"
                 for i, (card, _) in enumerate(CARDS)]
        command = Place.command(
            self, "linux.uml", f"mem={MEMORY}", "rootfstype=hostfs", "rootflags=/", "ro", "quiet",
            f"init={FILES}/init", "uml_dir=/run/", "umid=kernel", "con=null", "con0=null,fd:1", *cards,
            f"NODE={self.name}", f"NODE_ADDRESS={self.address}", f"CONTROL={INSIDE}", f"AGENT={FILES}/agent")
        with open(self.directory / "kernel.log", "ab") as log:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             start_new_session=True)
        self.run("true", timeout=120)

    def command(self, *command):
        return ["nsenter", f"--net={net.NETNS / self.namespace}", *self.env(), sys.executable,
                str(FILES / "agent"), "run", INSIDE, *map(str, command)]

    def processes(self):
        shown = self.run("sh", "-c", "grep -a '' /proc/[0-9]*/cmdline", check=False)
        found = {}
        for line in shown.stdout.splitlines():
            pid, _, words = line.removeprefix("/proc/").partition("/cmdline:")
            if pid.isdigit():
                found[int(pid)] = words.split("\0")[:-1] or [""]
        return found

    def strangers(self):
        """Only what droverd has started can be told from the rest."""
        return [pid for pid, words in self.processes().items()
                if SHARED in words[0] or "drover-" in words[0]]

    def api(self, method, path, body=None, timeout=30):
        data = ["-d", json.dumps(body)] if body is not None else []
        shown = self.run("curl", "-sS", "--max-time", timeout, "--unix-socket", SOCKET, "-X", method,
                         "-w", "\\n%{http_code}", "-H", "Content-Type: application/json", *data,
                         f"http://localhost{path}", check=False, timeout=timeout + 30)
        if shown.returncode != 0:
            raise ConnectionError(f"no answer from droverd: {shown.stderr.strip()}")
        text, _, status = shown.stdout.rpartition("\n")
        try:
            return int(status), json.loads(text)
        except ValueError:
            return int(status), text
