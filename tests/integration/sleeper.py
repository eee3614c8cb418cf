"""A guest that is suspended and goes on, of any hypervisor."""

from vms import drover, guest_client

DISK = "disk0.raw,format=raw,size=8M"


def work(guest):
    """It writes records to its disk and changes its memory from now on."""
    guest.ask("disk", "/dev/vda", 50)
    guest.ask("dirty", 4, "words")
    return guest


def info(node, guest):
    return drover(node, "show", guest.name)[1][0]


def where(lab, guest):
    """The node that it is on, or that it may be started on, and the other one."""
    name = info(lab.nodes[0], guest)["node"] or "node1"
    return lab.node(name), next(n for n in lab.nodes if n.name != name)


def assert_goes_on(lab, guest, node):
    """It goes on with the memory that it had; its disk has all records."""
    guest_client.wait_ready(lab.guests, guest.address, 60)
    guest.assert_runs_only_on(node)
    guest.ask("disk", "/dev/vda", 0)
    result = guest.ask("diskcheck", "/dev/vda")
    assert result["bad"] == 0 and result["records"] > 0, result
    guest.ask("disk", "/dev/vda", 50)
