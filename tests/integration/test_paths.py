"""Files that a definition names are in the pool, or where a node allows it."""

import pytest

from droverlab.lab import DEFAULT_QEMU, SHARED
from vms import Guest, drover, error_of

POOL = f"{SHARED}/pool"
KERNEL = f"{SHARED}/guests/vmlinuz"


@pytest.fixture(name="two", scope="module")
def fixture_two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("two", nodes=2)


@pytest.fixture(name="outside", scope="module")
def fixture_outside(two):
    """A file of node1 that is nobody's disk."""
    two.nodes[0].run("sh", "-c", "truncate -s 1M /run/outside && chmod 666 /run/outside")
    return "/run/outside"


def image(node, name, backing):
    node.run(f"{SHARED}/qemu/{DEFAULT_QEMU}/bin/qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b",
             backing, "-F", "qcow2" if backing.endswith(".qcow2") else "raw", f"{POOL}/images/new", "1M")
    node.run("chmod", "666", f"{POOL}/images/new")
    # Another file: the old one may be read for its index at this moment.
    node.run("mv", f"{POOL}/images/new", f"{POOL}/images/{name}")
    return f"images/{name}"


def refused(node, *arguments):
    status, documents = drover(node, *arguments, check=False)
    assert status != 0, documents
    error = error_of(documents)
    assert error["kind"] in ("refused", "definition"), error
    return error["message"]


@pytest.mark.parametrize("options", [
    ["--disk", "/run/outside,format=raw"], ["--kernel", "/run/outside"],
    ["--kernel", KERNEL, "--initrd", "/run/outside"],
    ["--kernel", f"{SHARED}/guests/../../outside"],
    ["--disk", f"{POOL}/images/../../../outside,format=raw"],
    ["--disk", f"{POOL}/link,format=raw"], ["--disk", f"{POOL}/images/link,format=raw"],
    ["--disk", f"{POOL}/pool.conf,format=raw"], ["--disk", f"{POOL}/nodes/node2.conf,format=raw"],
    ["--disk", f"{POOL}/vms/there/owner.1,format=raw"]])
def test_a_definition_does_not_lead_out_of_the_pool(two, outside, options):
    node1, _ = two.nodes
    (two.pool / "vms" / "there").mkdir(exist_ok=True)
    for link in (two.pool / "link", two.pool / "images" / "link"):
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(outside)
    refused(node1, "create", "leads-out", *options)
    assert not (two.pool / "vms" / "leads-out").exists()


@pytest.mark.parametrize("backing", ["/run/outside", "../../../outside", "nbd:127.0.0.1:1",
                                     'json:{"driver":"file","filename":"/run/outside"}'])
def test_what_an_image_is_based_on_does_not_either(two, outside, backing):  # pylint: disable=unused-argument
    node1, _ = two.nodes
    (two.pool / "images").mkdir(exist_ok=True)
    disk = image(node1, "layer.qcow2", backing)
    assert "an image under disk0" in refused(node1, "create", "layered", "--disk", disk)
    # One that came to be so later is refused when it is started.
    image(node1, "base.qcow2", f"{POOL}/images/plain.raw")
    (two.pool / "images" / "plain.raw").write_bytes(bytes(1 << 20))
    drover(node1, "create", "later", "--disk", image(node1, "top.qcow2", "base.qcow2"))
    image(node1, "base.qcow2", backing)
    assert "an image under disk0" in refused(node1, "start", "later")
    drover(node1, "rm", "later", "--yes")


@pytest.mark.parametrize("name", ["/run/outside", "outside", "nbd:127.0.0.1:1", ""])
def test_a_data_file_of_an_image_does_not_either(two, outside, name):
    """The name is written into the image as a hostile one has it."""
    node1, _ = two.nodes
    inside = two.pool / "images" / "data.raw"
    inside.parent.mkdir(exist_ok=True)
    made = two.pool / "images" / "split.qcow2"
    inside.unlink(missing_ok=True)
    made.unlink(missing_ok=True)
    node1.run(f"{SHARED}/qemu/{DEFAULT_QEMU}/bin/qemu-img", "create", "-q", "-f", "qcow2", "-o",
              f"data_file={POOL}/images/data.raw,data_file_raw=on", f"{POOL}/images/split.qcow2", "1M")
    for file in (inside, made):
        file.chmod(0o666)
    drover(node1, "create", "split", "--disk", "images/split.qcow2")
    drover(node1, "rm", "split", "--yes")
    image = made.read_bytes()
    old = f"{POOL}/images/data.raw".encode()
    assert image.count(b"DATA" + len(old).to_bytes(4, "big") + old) == 1
    made.write_bytes(image.replace(b"DATA" + len(old).to_bytes(4, "big") + old.ljust(-len(old) % 8 + len(old), b"\0"),
                                   b"DATA" + len(name).to_bytes(4, "big") +
                                   name.encode().ljust(-len(name) % 8 + len(name), b"\0")))
    assert "a data file of disk0" in refused(node1, "create", "split", "--disk", "images/split.qcow2")


def test_a_change_of_a_definition_does_not_either(two, outside):
    node1, _ = two.nodes
    drover(node1, "create", "changed", "--kernel", KERNEL)
    refused(node1, "set", "changed", f"kernel={outside}")
    drover(node1, "rm", "changed", "--yes")


def test_a_destination_takes_no_vm_whose_files_it_does_not_allow(two):
    """Its own settings count, not the source's."""
    node1, node2 = two.nodes
    guest = Guest(two, node1, "moves")
    conf = node2.path(f"{SHARED}/drover.conf")
    text = conf.read_text()
    node2.stop_daemon()
    conf.write_text(text.replace("allow_paths=", "#allow_paths="))
    node2.start_daemon()
    try:
        message = refused(node1, "migrate", guest.name, "node2")
        assert "the kernel of moves is outside the pool" in message and "node2" in message, message
        guest.assert_runs_only_on(node1)
    finally:
        node2.stop_daemon()
        conf.write_text(text)
        node2.start_daemon()
    drover(node1, "migrate", guest.name, "node2")
    guest.assert_runs_only_on(node2)
    guest.remove(node2)

