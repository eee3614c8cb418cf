"""The pool on file systems that nodes share, each node with a mount of its own: `make check-storage`.

Each file system's server is started by the lab that is on it, and ends with it. One that this machine
cannot serve or mount is skipped, and says why. docs/storage.md has what was seen.
"""

import pytest
from droverlab.lab import SHARED
from droverlab.paths import PROGRAMS
from droverlab.storage import KINDS, NFS3, GlusterFS

from claims import RACER, race
from vms import Guest, Watch, assert_nothing_is_left, drover, error_of, wait_for

POOL = f"{SHARED}/pool"
FILL_MIB = 8
# What statfs says: another one would mean that a test has looked at a local directory.
TYPES = {"glusterfs": "fuse.glusterfs"}


@pytest.fixture(scope="module", params=["local", *KINDS])
def shared(request, make_lab, tiny_guest):  # pylint: disable=unused-argument
    """A cluster of two nodes with its pool there. They have joined: the pool was probed."""
    kind = KINDS.get(request.param)
    reason = kind and kind.missing()
    if reason:
        pytest.skip(reason)
    lab = make_lab(request.param, storage=kind)
    yield lab
    lab.down()


def type_of(node):
    """Type of the file system that a node's pool is on."""
    return node.run("findmnt", "-n", "-o", "FSTYPE", "-T", POOL).stdout.strip()


def test_each_node_has_mounted_the_pool(shared, request):
    name = request.node.callspec.params["shared"]
    if name in TYPES:
        assert [type_of(node) for node in shared.nodes] == [TYPES[name]] * 2
    listed = drover(shared.nodes[1], "node", "ls")[1][0]["nodes"]
    assert len(listed) == 2, listed


def race_in(lab):
    racer = f"{SHARED}/build/{RACER.relative_to(PROGRAMS)}"
    race([(node.command, f"{POOL}/.race") for node in lab.nodes], racer)
    lab.nodes[0].run("rm", "-r", f"{POOL}/.race")


def test_no_epoch_is_won_twice_through_two_mounts(shared):
    race_in(shared)


def records(guest):
    """Starts a writer of records, and returns what tells how many the guest's disk has acknowledged."""
    guest.ask("disk", "/dev/vda", 50)
    return lambda: guest.ask("status")["disk_records"]


def move(guest, source, destination):
    drover(source, "migrate", guest.name, destination.name)
    guest.assert_runs_only_on(destination)


# Where the nodes' page caches are alike (docs/storage.md).
CACHED = ("local", "cephfs")


def test_a_cached_disk_moves_only_where_all_nodes_read_the_same(shared, request):
    node1, node2 = shared.nodes
    guest = Guest(shared, node1, "cached", disk="disk0.qcow2,size=64M,cache=writeback")
    try:
        if request.node.callspec.params["shared"] in CACHED:
            move(guest, node1, node2)
            move(guest, node2, node1)
            return
        _, documents = drover(node1, "migrate", "cached", "node2", check=False)
        assert "page caches alike" in error_of(documents)["message"], documents
        guest.assert_runs_only_on(node1)
    finally:
        guest.remove(node1)


@pytest.mark.parametrize("disk", ["disk0.qcow2,size=64M", "disk0.raw,size=64M"])
def test_a_vm_moves_there_and_back_with_its_disk(shared, disk):
    """Its memory is right after each move, what its disk acknowledged is on it, and the connection
    of a client is kept."""
    node1, node2 = shared.nodes
    guest = Guest(shared, node1, "moved", disk=disk, fill=False)
    guest.ask("fill", FILL_MIB, "text")
    try:
        written = records(guest)
        with Watch(guest) as watch:
            for source, destination in ((node1, node2), (node2, node1)):
                before = written()
                move(guest, source, destination)
                wait_for(lambda before=before: written() > before + 10, "records after the move")
        assert watch.result["tcp_survived"], watch.result
        acknowledged = guest.ask("disk", "/dev/vda", 0)
        assert acknowledged["errno"] == 0, acknowledged
        read = guest.ask("diskcheck", "/dev/vda")
        assert read["ok"] and read["records"] >= acknowledged["records"], (read, acknowledged)
        assert_nothing_is_left(node2)
        assert_nothing_is_left(node1, guest.pids(node1))
    finally:
        guest.remove(node1)


def qemu_img(node, *words):
    return node.run(f"{SHARED}/qemu/10.0/bin/qemu-img", *words, check=False)


def test_the_lock_of_a_disk_that_is_in_use_is_seen_by_the_other_node(shared):
    node1, node2 = shared.nodes
    guest = Guest(shared, node1, "locked", disk="disk0.qcow2,size=64M", fill=False)
    disk = f"{POOL}/vms/locked/disk0.qcow2"
    try:
        for node in shared.nodes:
            refused = qemu_img(node, "info", disk)
            assert refused.returncode != 0 and '"write" lock' in refused.stderr, (node.name, refused)
        drover(node1, "stop", guest.name, "--timeout", "0")
        for node in shared.nodes:
            assert qemu_img(node, "info", disk).returncode == 0
    finally:
        drover(node1, "stop", guest.name, "--timeout", "0", check=False)
        drover(node1, "rm", guest.name, "--yes")


def test_what_was_written_directly_is_read_directly_by_the_other_node(shared):
    """O_DIRECT, as cache none and directsync have it, in both directions."""
    file = f"{POOL}/.direct"
    for i, (writer, reader) in enumerate([shared.nodes, shared.nodes[::-1]] * 5):
        writer.run("sh", "-c", f"head -c 65536 /dev/zero | tr '\\0' '{i}' >/run/block && dd if=/run/block"
                   f" of={file} bs=4096 oflag=direct conv=notrunc,fsync 2>&1")
        read = reader.run("dd", f"if={file}", "bs=4096", "iflag=direct", "status=none").stdout
        assert read == str(i) * 65536
    shared.nodes[0].run("rm", file)


def test_without_a_quorum_of_its_bricks_nobody_gets_a_vm(shared):
    """Two halves of a volume that cannot see each other would each make an owner file of one epoch."""
    if not isinstance(shared.server, GlusterFS):
        pytest.skip("only GlusterFS is served by several")
    node1, node2 = shared.nodes
    guest = Guest(shared, node1, "quorum", fill=False)
    drover(node1, "stop", guest.name, "--timeout", "0")
    try:
        shared.server.kill_brick(1)  # the first is half of two, and decides
        drover(node2, "start", guest.name)
        drover(node2, "stop", guest.name, "--timeout", "0")
        shared.server.heal()
        shared.server.kill_brick(0)
        for node in shared.nodes:
            _, documents = drover(node, "start", guest.name, check=False)
            assert error_of(documents)["kind"] == "pool", documents
            assert not guest.pids(node)
    finally:
        shared.server.heal()
    wait_for(lambda: drover(node2, "start", guest.name, check=False)[0] == 0, "a start with both")
    guest.remove(node2)


def remount(lab, node, options):
    """With a process in it that goes on with the old mount."""
    node.run("umount", "-l", POOL)
    lab.server.mount_with(node, POOL, options)


def test_an_nfs_mount_that_is_not_safe_is_refused(make_lab):
    reason = NFS3.missing()
    if reason:
        pytest.skip(reason)
    lab = make_lab("options", storage=NFS3, bare=True)
    node1, node2 = lab.nodes
    for node in lab.nodes:
        node.start_daemon()

    def join(**options):
        token = node1.drover("token")["token"]
        return drover(node2, "join", node1.address, "--token", token, "--name", "node2", "--pool", POOL,
                      "--own-address", node2.address, **options)

    drover(node1, "init", "--pool", POOL, "--name", "node1", "--address", node1.address)
    for option in ("nolock", "soft", "nocto"):
        remount(lab, node2, option)
        error = error_of(join(check=False)[1])
        assert error["kind"] == "pool" and f'"{option}"' in error["message"], error
    # What the options of the joining node do not show, the probe sees.
    remount(lab, node2, "hard")
    remount(lab, node1, "nolock")
    error = error_of(join(check=False)[1])
    assert error["kind"] == "pool" and "is not seen here" in error["message"], error
    remount(lab, node1, "hard")
    join()
    # An owner is read anew however long the client may go on with what it knows.
    for node in lab.nodes:
        remount(lab, node, "hard,actimeo=600")
    race_in(lab)
    lab.down()
