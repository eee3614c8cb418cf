"""Labs whose nodes run VMs by bhyve: by the shim of tests/bhyve-shim (docs/bhyve.md)."""

import itertools
import re

from droverlab import guest_client
from droverlab.lab import SHARED
from droverlab.paths import ROOT
from vms import FILL_MIB, Guest, drover

SHIM = ROOT / "tests" / "bhyve-shim"
DIRECTORY = f"{SHARED}/bhyve"
QEMU = f"{SHARED}/qemu/10.0"
MEMORY = "160M"

_addresses = itertools.count(150)


def environment(**more):
    """droverd's, which its bhyve inherits."""
    return {"BHYVE_SHIM": DIRECTORY, "BHYVE_SHIM_QEMU": f"{QEMU}/bin/qemu-system-x86_64",
            "BHYVE_SHIM_DATA": f"{QEMU}/data", "BHYVE_SHIM_MODEL": "Shim CPU @ 1.00GHz", **more}


def start_daemon(node, **more):
    return node.start_daemon(**environment(**more))


def bhyve_lab(make_lab, name="bhyve", nodes=2, **more):
    """Nodes with droverd for bhyve, in one cluster; `more` is added to droverd's environment."""
    lab = make_lab(name, nodes=nodes, bare=True)
    for node in lab.nodes:
        conf = node.path(f"{SHARED}/drover.conf")
        conf.write_text(conf.read_text().replace("[node]\n", "[node]\nhypervisor=bhyve\n") +
                        f"\n[bhyve]\nbinary={SHIM}/bhyve\nbhyvectl={SHIM}/bhyvectl\n"
                        f"grub={SHIM}/grub-bhyve\nvmm={DIRECTORY}/vmm\nnmdm={DIRECTORY}\n")
        node.run("mkdir", "-p", f"{DIRECTORY}/vmm", f"{DIRECTORY}/state")
        start_daemon(node, **more)
    lab._form_cluster(lab.nodes)  # pylint: disable=protected-access
    return lab


class BhyveGuest(Guest):
    """A tiny guest of bhyve, started by grub-bhyve."""

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
