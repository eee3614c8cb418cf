"""What makes a migration fail is found out before anything moves: each check, with its cause made
for real."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

from droverlab.lab import SHARED, VM_USER
from vms import Guest, allow_userfaultfd, drover, error_of, migrations, wait_for

POOL = f"{SHARED}/pool"
NO_NODE, CANCELLED = 6, 27  # exit status (src/base/error.h)
OUTSIDE = "/run/outside"
ALLOW = (f"allow_paths={SHARED}/guests", f"allow_paths={SHARED}/guests:{OUTSIDE}")
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


@pytest.fixture(name="three", scope="module")
def fixture_three(make_lab, tiny_guest):  # pylint: disable=unused-argument
    lab = make_lab("three", nodes=3, qemu={"node3": "7.2"})
    # Of node1 alone: what node2 does not allow.
    conf = lab.nodes[0].path(f"{SHARED}/drover.conf")
    conf.write_text(conf.read_text().replace(*ALLOW))
    lab.nodes[0].stop_daemon()
    lab.nodes[0].start_daemon()
    return lab


@pytest.fixture(name="guest", scope="module")
def fixture_guest(three):
    """Runs on node1 between the tests."""
    return Guest(three, three.nodes[0], "web1", disk="disk0.qcow2,size=16M")


class Idle:
    """A VM that has nothing to boot, and so runs at once."""

    pids = Guest.pids

    def __init__(self, node, name, *options):
        self.node, self.name = node, name
        options = options if "--memory" in options else ("--memory", "64M", *options)
        drover(node, "create", name, *options)
        drover(node, "start", name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        drover(self.node, "stop", self.name, "--timeout", "0")
        drover(self.node, "rm", self.name, "--yes")


@contextlib.contextmanager
def another_droverd(node, change=("", ""), program=None, **environment):
    """droverd with a change of its settings, another program or environment; as it was at the
    end."""
    conf, link = node.path(f"{SHARED}/drover.conf"), node.path(f"{SHARED}/bin/droverd")
    text, target = conf.read_text(), os.readlink(link)

    def restart(new_text, new_target, **environ):
        node.stop_daemon()
        conf.write_text(new_text)
        link.unlink()
        link.symlink_to(new_target)
        node.start_daemon(**environ)

    try:
        restart(text.replace(*change), program or target, **environment)
        yield
    finally:
        restart(text, target)


@contextlib.contextmanager
def mounted(node, at, *command):
    """Something else at a place of the node's own mounts."""
    node.run(*command)
    try:
        yield
    finally:
        node.run("umount", "-n", "-l", at)


def through_fuse(node, source, at):
    """A FUSE file system over a directory: it is stopped or ended by its process."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this machine has no /dev/fuse")
    return mounted(node, at, "bindfs", "-o", "allow_other", source, at)


def fuse_process(node, at):
    return next(pid for pid in map(int, node.run("pidof", "bindfs").stdout.split())
                if at.encode() in open(f"/proc/{pid}/cmdline", "rb").read())


def check(node, vm, to, *options):
    """(exit status, the checks by their ids, the whole report) of `drover migrate --check`, without
    an estimate (test_estimate.py)."""
    status, documents = drover(node, "migrate", vm, to, "--check", "--no-estimate", *options,
                               check=False)
    checks = {c["id"]: c for c in documents[-1].get("checks", [])}
    assert (status == 0) == documents[-1].get("ready", False), documents
    return status, checks, documents[-1]


def results(checks, *wanted):
    return {i: c["result"] for i, c in checks.items() if c["result"] in wanted}


def assert_refused(node, guest, to, failed, kind, *words, options=()):
    """Exactly these checks fail, the first with this kind and these words, and the command refuses
    the move with the same."""
    status, checks, report = check(node, guest.name, to, *options)
    assert list(results(checks, "failed")) == list(failed), report
    first = checks[failed[0]]
    assert first["kind"] == kind and report["error"]["kind"] == kind, report
    assert status == report["error"]["exit"]
    for word in words:
        assert word in first["message"], first
    refused, documents = drover(node, "migrate", guest.name, to, *options, check=False)
    assert refused == status and error_of(documents)["kind"] == kind, documents
    for word in words:
        assert word in error_of(documents)["message"], documents
    assert guest.pids(node), "it does not run where it was"
    return checks


def test_a_healthy_pair_passes_each_check_and_nothing_moves(three, guest):
    node1, _, _ = three.nodes
    status, checks, report = check(node1, guest.name, "node2")
    assert status == 0 and len(checks) == 21, report
    assert set(c["result"] for c in checks.values()) == {"ok"}, report
    assert checks["pool"]["here"] == checks["pool"]["there"] and POOL in checks["pool"]["here"]
    guest.assert_runs_only_on(node1)
    table = node1.run("bmigrate", f"jname={guest.name}", "node=node2", "check=1").stdout
    titles, *rows = table.partition("estimate:\n")[0].splitlines()
    assert titles.split() == ["CHECK", "RESULT", "HERE", "THERE", "WHAT", "TO", "DO"]
    assert [row.split()[0] for row in rows] == list(checks)
    assert not list(three.pool.glob(".tmp.probe.*"))


def test_any_node_can_ask(three, guest):
    status, _, report = check(three.nodes[1], guest.name, "node2")
    assert status == 0 and report["from"] == "node1", report


def test_a_copy_of_the_pool_at_the_same_path_is_not_the_pool(three, guest):
    node1, node2, _ = three.nodes
    node2.run("cp", "-a", POOL, "/run/copy")
    with mounted(node2, POOL, "mount", "-n", "--bind", "/run/copy", POOL):
        assert_refused(node1, guest, "node2", ["pool"], "pool", "the same storage")
    shutil.rmtree(node2.path("/run/copy"))


def test_a_pool_that_is_not_mounted_is_named(three, guest):
    node1, node2, _ = three.nodes
    with mounted(node2, POOL, "mount", "-n", "-t", "tmpfs", "tmpfs", POOL):
        assert_refused(node1, guest, "node2", ["pool"], "pool", "node2", "mount")


def test_a_stale_mount_of_the_pool_is_named(three, guest):
    node1, node2, _ = three.nodes
    with through_fuse(node2, POOL, POOL):
        os.kill(fuse_process(node2, POOL), signal.SIGKILL)
        wait_for(lambda: node2.run("ls", POOL, check=False).returncode, "the end of the mount")
        assert_refused(node1, guest, "node2", ["pool"], "pool", "node2",
                       "Transport endpoint is not connected")


def test_a_pool_that_is_mounted_read_only_is_named(three, guest):
    node1, node2, _ = three.nodes
    with mounted(node2, POOL, "mount", "-n", "--bind", "-o", "ro", POOL, POOL):
        assert_refused(node1, guest, "node2", ["pool", "disks"], "pool", "node2",
                       "Read-only file system")


def test_a_pool_that_is_read_only_here_is_named(three, guest):
    node1, _, _ = three.nodes
    with mounted(node1, POOL, "mount", "-n", "--bind", "-o", "ro", POOL, POOL):
        status, checks, _ = check(node1, guest.name, "node2")
        assert status != 0 and checks["pool"]["result"] == "failed"
        assert "on node1" in checks["pool"]["message"]


@pytest.fixture(name="outsider", scope="module")
def fixture_outsider(three):
    """Its disk is outside the pool, where node1 allows it; node2 has another file there."""
    node1, node2, _ = three.nodes
    for place in (three.directory / "outside", node2.path(OUTSIDE)):
        place.mkdir()
        (place / "disk").write_bytes(bytes(1 << 20))
        (place / "disk").chmod(0o666)
    node1.run("mkdir", OUTSIDE)
    node1.run("mount", "-n", "--bind", three.directory / "outside", OUTSIDE)
    with Idle(node1, "outsider", "--disk", f"{OUTSIDE}/disk,format=raw") as it:
        yield it


def test_a_disk_outside_the_pool_must_be_allowed_there(three, outsider):
    node1, _, _ = three.nodes
    assert_refused(node1, outsider, "node2", ["files"], "refused", "disk0", "outside the pool",
                   "allow_paths", "node2")


def test_a_disk_outside_the_pool_that_may_be_another_is_a_warning(three, outsider):
    node1, node2, _ = three.nodes
    with another_droverd(node2, ALLOW):
        status, checks, _ = check(node1, outsider.name, "node2")
        assert status == 0 and list(results(checks, "warning")) == ["disks"], checks
        assert "the same file" in checks["disks"]["message"]
        # The same file, which is the same on each node where storage is shared.
        with mounted(node2, OUTSIDE, "mount", "-n", "--bind", three.directory / "outside", OUTSIDE):
            _, checks, _ = check(node1, outsider.name, "node2")
            assert not results(checks, "warning", "failed"), checks


def test_a_disk_that_does_not_open_there_is_named(three, guest):
    node1, _, _ = three.nodes
    disk = three.pool / "vms" / guest.name / "disk0.qcow2"
    owner = disk.stat()
    os.chown(disk, 0, 0)
    disk.chmod(0o600)
    try:
        assert_refused(node1, guest, "node2", ["disks"], "disk", "disk0.qcow2", "Permission denied",
                       str(VM_USER))
    finally:
        os.chown(disk, owner.st_uid, owner.st_gid)
        disk.chmod(owner.st_mode & 0o777)


def test_a_file_system_without_direct_io_is_named(three, guest):
    node1, node2, _ = three.nodes
    place = f"{POOL}/vms/{guest.name}"
    node2.run("cp", "-a", place, "/run/vm")
    with mounted(node2, place, "mount", "-n", "-t", "ramfs", "-o", "mode=0755", "ramfs", place):
        node2.run("cp", "-a", "/run/vm/.", place)
        assert_refused(node1, guest, "node2", ["disks"], "disk", "O_DIRECT", "writeback")
    node2.run("rm", "-r", "/run/vm")


@pytest.fixture(name="cached", scope="module")
def fixture_cached(three):
    """Its disk is raw and goes through the host's page cache."""
    node1, _, _ = three.nodes
    with Idle(node1, "cached", "--disk", "disk0.raw,size=16M,cache=writeback") as it:
        yield it


def test_a_host_cache_on_a_file_system_that_does_not_allow_it_is_named(three, cached):
    node1, node2, _ = three.nodes
    place = f"{POOL}/vms/{cached.name}"
    assert check(node1, cached.name, "node2")[0] == 0
    with through_fuse(node2, place, place):
        checks = assert_refused(node1, cached, "node2", ["cache"], "disk", "disk0.cache to none")
        assert checks["cache"]["here"] == "cache=writeback"
        assert checks["cache"]["there"].startswith("fuse")


def test_past_the_host_cache_it_may_be_any_file_system(three, guest):
    node1, node2, _ = three.nodes
    place = f"{POOL}/vms/{guest.name}"
    with through_fuse(node2, place, place):
        _, checks, report = check(node1, guest.name, "node2")
        assert checks["cache"]["result"] == "ok", report
        assert checks["cache"]["there"].startswith("fuse")


def test_storage_that_does_not_answer_leaves_checks_unknown(three, guest):
    node1, node2, _ = three.nodes
    place = f"{POOL}/vms/{guest.name}"
    with through_fuse(node2, place, place):
        bindfs = fuse_process(node2, place)
        os.kill(bindfs, signal.SIGSTOP)
        try:
            _, checks, report = check(node1, guest.name, "node2")
        finally:
            os.kill(bindfs, signal.SIGCONT)
        unknown = results(checks, "unknown")
        assert "disks" in unknown and "pool" not in unknown and "reachable" not in unknown, report
        assert "node2" in checks["disks"]["message"] and "disks" in checks["disks"]["message"]


def test_a_machine_type_that_the_other_qemu_lacks_is_named(three, guest):
    node1, _, _ = three.nodes
    checks = assert_refused(node1, guest, "node3", ["machine"], "hypervisor", "pc-q35-10.0", "7.2")
    assert checks["hypervisor"]["result"] == "warning", checks["hypervisor"]


def test_a_cpu_feature_that_the_other_qemu_lacks_is_named(three, guest):
    """One that knows CPUs of 32 bits only."""
    node1, node2, _ = three.nodes
    with another_droverd(node2, ("bin/qemu-system-x86_64", "root/usr/bin/qemu-system-i386")):
        assert_refused(node1, guest, "node2", ["cpu"], "hypervisor", "qemu64", "lm", "node2")


def test_a_bridge_that_is_missing_is_named(three, guest):
    node1, node2, _ = three.nodes
    subprocess.run(["ip", "-n", node2.namespace, "link", "set", "br0", "name", "br9"], check=True)
    try:
        checks = assert_refused(node1, guest, "node2", ["bridges"], "network", "br0", "br9")
        assert checks["bridges"]["here"] == "br0"
    finally:
        subprocess.run(["ip", "-n", node2.namespace, "link", "set", "br9", "name", "br0"], check=True)


def test_a_node_with_too_little_memory_is_named(three):
    """The VM may have nearly all that the machine has, as long as its guest does not use it."""
    node1, _, _ = three.nodes
    total_kib = int(open("/proc/meminfo", encoding="ascii").readline().split()[1])
    with Idle(node1, "big", "--memory", f"{(total_kib >> 10) - 64}M") as big:
        assert_refused(node1, big, "node2", ["memory"], "refused", "MiB", "node2")
        status, checks, report = check(node1, big.name, "node2", "--force=memory")
        assert status == 0 and checks["memory"]["forced"], report


def test_too_little_memory_can_be_overridden(three, guest):
    """Of a node that has less, as one in a container with lxcfs sees it."""
    node1, node2, _ = three.nodes
    little = [line for line in open("/proc/meminfo", encoding="ascii") if "MemAvail" not in line]
    node2.path("/run/meminfo").write_text("".join([*little, "MemAvailable:     100000 kB\n"]))
    with mounted(node2, "/proc/meminfo", "mount", "-n", "--bind", "/run/meminfo", "/proc/meminfo"):
        assert_refused(node1, guest, "node2", ["memory"], "refused", "97 MiB")
        drover(node1, "migrate", guest.name, "node2", "--force", "memory")
        guest.assert_runs_only_on(node2)
    drover(node2, "migrate", guest.name, "node1")


def qmp(node, vm, command, **arguments):
    """A command to a QEMU whose droverd is away."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(node.path(f"/run/drover/vms/{vm}/qmp.sock")))
        file = s.makefile("rw")
        file.readline()
        for run in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
            file.write(json.dumps(run) + "\n")
            file.flush()
            while "return" not in (answer := json.loads(file.readline())):
                assert "error" not in answer, answer


def test_what_the_hypervisor_cannot_move_is_named(three, guest):
    """An image of a format of which QEMU cannot move the state."""
    node1, _, _ = three.nodes
    image = f"{POOL}/vms/{guest.name}/extra.vdi"
    node1.run(f"{SHARED}/qemu/10.0/bin/qemu-img", "create", "-q", "-f", "vdi", image, "1M")
    node1.run("chmod", "666", image)
    node1.stop_daemon()
    qmp(node1, guest.name, "blockdev-add", driver="vdi", **{
        "node-name": "extra", "file": {"driver": "file", "filename": image}})
    node1.start_daemon()
    try:
        assert_refused(node1, guest, "node2", ["devices"], "hypervisor", "vdi", "extra")
    finally:
        node1.stop_daemon()
        qmp(node1, guest.name, "blockdev-del", **{"node-name": "extra"})
        node1.start_daemon()
    assert check(node1, guest.name, "node2")[0] == 0


def test_clocks_that_are_apart_are_named_and_can_be_overridden(three, guest):
    node1, node2, _ = three.nodes
    with another_droverd(node2, LD_PRELOAD=FAKETIME, FAKETIME="+5s", FAKETIME_ONLY_CMDS="droverd",
                         FAKETIME_DONT_FAKE_MONOTONIC="1", FAKETIME_FORCE_MONOTONIC_FIX="0"):
        checks = assert_refused(node1, guest, "node2", ["clock"], "refused", "s ahead of", "node2")
        ahead, _, _, within = checks["clock"]["there"].rstrip(")").split()
        assert abs(int(ahead) - 5000) <= int(within), checks["clock"]
        status, _, report = check(node1, guest.name, "node2", "--force", "clock")
        assert status == 0, report
        drover(node1, "migrate", guest.name, "node2", "--force", "memory,clock")
        guest.assert_runs_only_on(node2)
    drover(node2, "migrate", guest.name, "node1")


def other_droverd(node, before, after):
    """A program that differs in a text; in the node's own /run."""
    program = node.path("/run/other")
    program.write_bytes(node.path(f"{SHARED}/build/src/daemon/droverd").read_bytes()
                        .replace(before, after))
    program.chmod(0o755)
    return "/run/other"


def test_versions_of_drover_that_do_not_go_together_are_named(three, guest):
    node1, node2, _ = three.nodes
    with another_droverd(node2, program=other_droverd(node2, b"0.1.0", b"9.1.0")):
        checks = assert_refused(node1, guest, "node2", ["version"], "refused", "9.1.0", "0.1.0")
        assert (checks["version"]["here"], checks["version"]["there"]) == ("0.1.0", "9.1.0")


def test_another_version_that_goes_together_is_a_warning(three, guest):
    node1, node2, _ = three.nodes
    with another_droverd(node2, program=other_droverd(node2, b"0.1.0", b"0.9.0")):
        said = node1.run("drover", "migrate", guest.name, "node2")
        assert "drover: warning: version: " in said.stderr and "0.9.0" in said.stderr, said
        guest.assert_runs_only_on(node2)
        drover(node2, "migrate", guest.name, "node1")


def test_an_older_droverd_that_cannot_be_asked_stops_nothing(three, guest):
    node1, node2, _ = three.nodes
    with another_droverd(node2, program=other_droverd(node2, b"/v1/preflight", b"/v1/preflighx")):
        _, checks, report = check(node1, guest.name, "node2")
        assert report["ready"] and not results(checks, "failed"), report
        assert set(results(checks, "unknown")) == {
            "pool", "owner", "vacant", "architecture", "machine", "cpu", "postcopy", "bridges",
            "files", "disks", "cache", "memory"}
        said = node1.run("drover", "migrate", guest.name, "node2")
        warnings = [line for line in said.stderr.splitlines() if "warning" in line]
        assert len(warnings) == 1 and "older drover" in warnings[0], said
        guest.assert_runs_only_on(node2)
        # And the older one moves to the newer.
        drover(node2, "migrate", guest.name, "node1")


def test_a_hypervisor_with_a_known_defect_is_named(three):
    _, node2, node3 = three.nodes
    with Idle(node3, "old") as old:
        assert_refused(node3, old, "node2", ["defect"], "hypervisor", "7.2", "--pause")
        status, _, report = check(node3, old.name, "node2", "--pause")
        assert status == 0, report
    assert not old.pids(node2)


def test_post_copy_that_the_other_node_forbids_is_named(three, guest):
    node1, node2, _ = three.nodes
    assert_refused(node1, guest, "node2", ["postcopy"], "hypervisor", "userfaultfd", "node2",
                   options=["--postcopy"])
    allow_userfaultfd(node2)
    status, checks, report = check(node1, guest.name, "node2", "--postcopy")
    assert status == 0 and checks["postcopy"]["there"] == "allowed", report


def test_what_is_being_done_with_the_vm_is_named(three, guest):
    node1, _, _ = three.nodes
    move = node1.popen("drover", "migrate", guest.name, "node2", "--bandwidth", "1M",
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    wait_for(lambda: any(m.get("last", {}).get("phase") == "rounds" and not m["ended_ms"]
                         for m in migrations(node1, guest)), "a move")
    try:
        status, checks, report = check(node1, guest.name, "node2")
        assert checks["operation"]["kind"] == "busy" and status == report["error"]["exit"]
        assert list(results(checks, "failed")) == ["operation", "vacant"], report
        assert "being moved from node1 to node2" in report["error"]["message"]
        renamed = node1.run("drover", "rename", guest.name, "other", check=False).stderr
        # It names the way out, which is one from any node.
        (way_out,) = re.findall(r"end it with `(drover migration cancel \w+ --node node1)`", renamed)
        assert way_out in report["error"]["message"], report
        three.nodes[2].run(*way_out.split())
        assert move.wait(60) == CANCELLED
    finally:
        move.send_signal(signal.SIGINT)
        move.communicate(timeout=60)
    guest.assert_runs_only_on(node1)


def test_a_vm_that_does_not_run_is_named(three):
    node1, _, _ = three.nodes
    drover(node1, "create", "off", "--memory", "16M")
    status, checks, report = check(node1, "off", "node2")
    assert list(results(checks, "failed")) == ["vm"], report
    assert checks["owner"]["here"] == checks["owner"]["there"], report
    assert checks["vm"]["kind"] == "not-running" and report["error"]["kind"] == "not-running"
    assert status == report["error"]["exit"]
    # What the message says to do does it.
    command = re.search("`drover (.*?)`", checks["vm"]["message"])[1].split()
    drover(node1, *command)
    assert drover(node1, "show", "off")[1][0]["node"] == "node2"
    drover(node1, "stop", "off", "--hard")
    drover(node1, "rm", "off", "--yes")


def test_a_node_that_is_none_is_said_in_one_sentence(three, guest):
    """Checked or moved, and the node that is asked may be another than the one that has the VM."""
    for node, options in itertools.product(three.nodes[:2], (["--check"], [])):
        result = node.run("drover", "migrate", guest.name, "node9", *options, check=False)
        assert (result.returncode, result.stdout) == (NO_NODE, "")
        assert result.stderr == ("drover: no node named node9 in the pool; `drover node ls` lists "
                                 "the nodes\n")
    guest.assert_runs_only_on(three.nodes[0])


def test_a_node_that_does_not_answer_is_named(three, guest):
    node1, node2, _ = three.nodes
    node2.stop_daemon()
    try:
        checks = assert_refused(node1, guest, "node2", ["reachable"], "unreachable", "node2")
        assert results(checks, "unknown").keys() >= {"pool", "disks", "memory", "clock"}
    finally:
        node2.start_daemon()


def test_a_node_that_was_removed_is_named(three, guest):
    """Its record is gone for the other nodes only: each reads the pool for itself."""
    node1, node2, _ = three.nodes
    node2.run("cp", "-a", POOL, "/run/copy")
    node2.run("rm", "/run/copy/nodes/node1.conf")
    with mounted(node2, POOL, "mount", "-n", "--bind", "/run/copy", POOL):
        assert_refused(node1, guest, "node2", ["member"], "certificate", "node1")
    node2.run("rm", "-r", "/run/copy")


@pytest.mark.parametrize("forced, kind, words", [
    ("disks", "refused", ["disks cannot be overridden", "memory, clock"]),
    ("memory,pool", "refused", ["pool cannot be overridden", "two"]),
    ("everything", "usage", ["everything", "memory, clock"])])
def test_what_is_not_safe_to_override_is_said(three, guest, forced, kind, words):
    node1, _, _ = three.nodes
    for options in (["--check"], []):
        status, documents = drover(node1, "migrate", guest.name, "node2", "--force", forced, *options,
                                   check=False)
        error = error_of(documents)
        assert error["kind"] == kind and status == error["exit"], documents
        assert all(word in error["message"] for word in words), error
    guest.assert_runs_only_on(node1)
