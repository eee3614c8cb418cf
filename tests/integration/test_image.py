"""Disk images of the pool and their content indexes: `drover image`, and indexes that are made by
themselves when a VM is started whose disk is based on an image without one."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from daemons import fixture_directory, fixture_new_daemon, fixture_node, wait_ready
from droverlab.lab import VM_USER
from droverlab.paths import GUESTS, PROGRAMS
from vms import Guest, drover, wait_for

# Found by pytest in this module.
FIXTURES = (fixture_directory, fixture_new_daemon, fixture_node)
WIRE = PROGRAMS / "src/wire/drover-wire"
DROVER = PROGRAMS / "src/cli/drover"
BLOCK = 4096
SECONDS = 60
USAGE, NOT_FOUND, EXISTS, REFUSED, DISK, NAME = 2, 7, 8, 15, 18, 22


def contents(blocks, seed=0):
    """Blocks that differ from one another."""
    return b"".join((seed * blocks + n).to_bytes(8, "big") * (BLOCK // 8) for n in range(1, blocks + 1))


def command(daemon, *words, **options):
    """drover against a daemon: (exit status, standard output)."""
    run = subprocess.run([DROVER, *map(str, words)], text=True, capture_output=True, check=False,
                         timeout=SECONDS, env={**os.environ, "DROVER_SOCKET":
                                               str(daemon.run_dir / "droverd.sock")}, **options)
    return run.returncode, run.stdout + run.stderr


def ask(daemon, *words, **options):
    """The same with --json: what it answered, or its error."""
    status, text = command(daemon, *words, "--json", **options)
    answer = json.loads(text.splitlines()[-1])
    return answer if status == 0 else {"status": status, **answer["error"]}


@pytest.fixture(name="image")
def fixture_image(directory):
    path = directory / "debian.raw"
    path.write_bytes(contents(500))
    return path


def leftovers(directory):
    return [str(path) for path in Path(directory).rglob(".tmp.*")]


# --- the verbs ---


def test_add_copies_indexes_and_never_replaces(node, image, directory):
    status, text = command(node, "image", "add", image)
    assert (status, text) == (0, "image debian.raw is in the pool and indexed\n")
    copy = directory / "pool/images/debian.raw"
    assert copy.read_bytes() == image.read_bytes()
    assert Path(f"{copy}.didx").stat().st_size > BLOCK

    status, text = command(node, "image", "add", image)
    assert status == EXISTS and "debian.raw" in text
    answer = ask(node, "image", "mode=add", f"path={image}", "name=other.raw")
    assert answer["index"]["entries"] == 500
    assert leftovers(directory / "pool") == []


def test_add_takes_a_file_of_the_working_directory(node, image):
    status, _ = command(node, "image", "add", image.name, cwd=image.parent)
    assert status == 0


@pytest.mark.parametrize("words, status, part", [
    (["add", "/nowhere/x.qcow2"], NOT_FOUND, "/nowhere/x.qcow2"),
    (["add", "/dev/zero"], DISK, "no regular file"),
    (["add", "/proc/kmsg"], DISK, "no regular file"),
    (["add", "/proc/cpuinfo"], DISK, "no regular file"),
    (["add", "/etc/passwd", "--name", "../vms/x"], NAME, "../vms/x"),
    (["add"], USAGE, "FILE is missing"),
    (["index", "nothing.raw"], NOT_FOUND, "image ls"),
    (["index", "/nowhere/x"], NOT_FOUND, "/nowhere/x"),
    (["rm", "nothing.raw", "--yes"], NOT_FOUND, "nothing.raw"),
    (["rm", "nothing.raw"], USAGE, "--yes"),
    (["rm", "x.raw.didx", "--yes"], NAME, "index"),
])
def test_what_cannot_be_done_says_why_and_makes_nothing(node, words, status, part, directory):
    code, text = command(node, "image", *words)
    assert code == status, text
    assert part in text
    assert list((directory / "pool/images").iterdir()) == []


def test_what_is_no_image_is_neither_added_nor_removed(node, directory):
    images = directory / "pool/images"
    (images / "directory").mkdir()
    os.mkfifo(images / "fifo")
    (directory / "empty.raw").touch()
    for words, status, part in [
            (["rm", "directory", "--yes"], NOT_FOUND, "is a directory"),
            (["rm", "fifo", "--yes"], NOT_FOUND, "is no regular file"),
            (["add", images / "fifo", "--name", "a"], DISK, "no regular file"),
            (["add", images / "directory", "--name", "a"], DISK, "no regular file"),
            (["add", directory / "empty.raw"], DISK, "is empty")]:
        code, text = command(node, "image", *words)
        assert code == status and part in text and text.count("\n") == 1, text
    assert sorted(path.name for path in images.iterdir()) == ["directory", "fifo"]


def test_the_api_takes_no_path_for_a_name(node):
    for method, path, body in [("POST", "/v1/indexes", {"image": "images/../../etc/passwd"}),
                               ("POST", "/v1/images", {"path": "/etc/passwd", "name": "../x"}),
                               ("DELETE", "/v1/images/..", None)]:
        assert node.error(method, path, body)[0] == "name"


def test_images_are_listed_with_their_index_and_their_vms(node, image, directory):
    command(node, "image", "add", image)
    wait_ready(node)
    status, answer = node.ask("POST", "/v1/vms", {"name": "web1", "disks": [
        {"file": "disk0.qcow2", "backing": "images/debian.raw", "backing_format": "raw"}]})
    assert status == 200, answer

    (listed,) = ask(node, "image", "ls")["images"]
    assert listed["name"] == "debian.raw" and listed["index"] == "fresh"
    assert listed["format"] == "raw" and listed["size"] == 500 * BLOCK
    assert listed["vms"] == ["web1"]
    text = command(node, "image", "ls")[1].splitlines()
    assert text[0].split() == ["NAME", "SIZE", "FORMAT", "INDEX", "VMS"]
    assert text[1].split() == ["debian.raw", "2.0", "MiB", "raw", "fresh", "web1"]

    status, text = command(node, "image", "rm", "debian.raw", "--yes")
    assert status == REFUSED and "web1 is based on" in text
    with open(directory / "pool/images/debian.raw", "r+b") as file:
        file.write(b"changed")
    assert ask(node, "image", "ls")["images"][0]["index"] == "stale"
    status, text = command(node, "image", "index", "debian.raw")
    assert status == 0 and "500 blocks" in text
    assert ask(node, "image", "ls")["images"][0]["index"] == "fresh"

    assert node.ask("DELETE", "/v1/vms/web1")[0] == 200
    assert command(node, "image", "rm", "debian.raw", "--yes")[0] == 0
    assert list((directory / "pool/images").iterdir()) == []
    assert ask(node, "image", "ls") == {"images": []}


def test_an_image_elsewhere_is_indexed_by_its_path(node, image):
    answer = ask(node, "image", "index", image)
    assert answer["index"]["entries"] == 500
    assert Path(f"{image}.didx").exists()
    again = ask(node, "image", "index", f"./{image.name}", cwd=image.parent)
    assert again["path"] == str(image.resolve()) and again["index"]["entries"] == 500


def test_others_than_root_add_only_their_own_files(node, image, directory):
    """Who may use the socket may not read all that droverd can."""
    (node.run_dir / "droverd.sock").chmod(0o666)
    own = directory / "own.raw"
    own.write_bytes(contents(3))
    os.chown(own, 65534, 65534)
    # Its interpreter may lie where that user cannot go: the socket is spoken to by hand.
    script = ("import http.client, json, os, socket, sys\n"
              "os.setgid(65534); os.setuid(65534)\n"
              "c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX)\n"
              "c.sock.connect(sys.argv[1])\n"
              "c.request('POST', sys.argv[2], sys.argv[3])\n"
              "print(c.getresponse().read().decode())")

    def as_nobody(path, body):
        out = subprocess.run(["/usr/bin/python3", "-c", script,
                              str(node.run_dir / "droverd.sock"), path, json.dumps(body)],
                             check=True, capture_output=True, text=True).stdout
        return json.loads(out)

    answer = as_nobody("/v1/images", {"path": str(image), "name": "a.raw"})
    assert answer["error"]["kind"] == "refused"
    answer = as_nobody("/v1/indexes", {"image": str(image)})
    assert answer["error"]["kind"] == "refused"
    assert "error" not in as_nobody("/v1/images", {"path": str(own), "name": "own.raw"})
    assert "error" not in as_nobody("/v1/indexes", {"image": "own.raw"})


# --- building ---


@pytest.fixture(name="large")
def fixture_large(directory):
    """An image that takes a while."""
    path = directory / "large.raw"
    with open(path, "wb") as file:
        block = os.urandom(64 << 20)
        for _ in range(24):
            file.write(block)
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_building_that_is_interrupted_leaves_no_file(large, number):
    with subprocess.Popen([WIRE, "index", large], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as build:
        wait_for(lambda: int(Path(f"/proc/{build.pid}/io").read_text().split()[1]) > 4 << 20,
                 "its reading")
        build.send_signal(number)
        line = json.loads(build.stdout.read())
        assert build.wait(SECONDS) == 27
    assert line["kind"] == "cancelled"
    assert [path.name for path in large.parent.iterdir() if "large" in path.name
            or path.name.startswith(".tmp")] == ["large.raw"]


def test_droverd_stops_while_it_indexes(node, large, directory):
    """Soon, with nothing left behind, and who waited is told."""
    with subprocess.Popen([DROVER, "image", "index", large, "--json"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={
                              **os.environ, "DROVER_SOCKET": str(node.run_dir / "droverd.sock")}
                          ) as waiting:
        (child,) = wait_for(lambda: children(node), "the builder")
        started = time.monotonic()
        assert node.end(signal.SIGTERM) == 0
        assert time.monotonic() - started < 10
        assert not Path(f"/proc/{child}").exists()
        waiting.wait(SECONDS)
        assert waiting.returncode != 0
    assert leftovers(directory) == []


def test_a_command_that_is_interrupted_stops_what_it_asked_for(node, large, directory):
    with subprocess.Popen([DROVER, "image", "index", large], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env={
                              **os.environ, "DROVER_SOCKET": str(node.run_dir / "droverd.sock")}
                          ) as waiting:
        (child,) = wait_for(lambda: children(node), "the builder")
        os.kill(child, signal.SIGSTOP)
        waiting.send_signal(signal.SIGINT)
        waiting.wait(SECONDS)
        os.kill(child, signal.SIGCONT)
    wait_for(lambda: not children(node), "the builder's end")
    wait_for(lambda: node.get("/v1/status"), "an answer")
    assert leftovers(directory) == []


def children(daemon):
    """drover-wire's of a daemon."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            if "(drover-wire)" in text and text.rsplit(")", 1)[1].split()[1] == str(
                    daemon.process.pid):
                found.append(int(stat.parent.name))
    return found


# --- with VMs ---


@pytest.fixture(scope="module")
def lab(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("image", nodes=2)


def put_base(lab_, name, blocks=5000, seed=0):
    """A base image without an index, as somebody copies it there."""
    path = lab_.pool / "images" / name
    path.write_bytes(contents(blocks, seed))
    return path


def index_state(node, name):
    _, (answer,) = drover(node, "image", "ls")
    return next(image["index"] for image in answer["images"] if image["name"] == name)


def test_an_index_is_made_when_a_vm_starts_and_used_when_it_moves(lab):
    node1, node2 = lab.nodes
    base = put_base(lab, "base.raw")
    guest = Guest(lab, node1, "indexed",
                  disk="disk0.qcow2,backing=images/base.raw,backing_format=raw", fill=False)
    try:
        wait_for(lambda: index_state(node1, "base.raw") == "fresh", "the index")
        assert index_state(node2, "base.raw") == "fresh"
        made = Path(f"{base}.didx").stat().st_mtime_ns
        drover(node1, "migrate", guest.name, "node2", "--bandwidth", "2M", "--detach")
        for node in (node1, node2):
            arguments = wait_for(lambda node=node: mover_arguments(node), "the data mover")
            at = arguments.index("--source")
            assert arguments[at + 1] == (
                "images/base.raw=/run/drover-lab/pool/images/base.raw"), arguments
            # The guest's own disk is written to: no source.
            assert arguments.count("--source") == 1
        _, (listed,) = drover(node1, "migration", "ls")
        drover(node1, "migration", "cancel", listed["migrations"][0]["id"])
        wait_for(lambda: drover(node1, "show", guest.name)[1][0]["operation"] is None, "its end")
        assert Path(f"{base}.didx").stat().st_mtime_ns == made
        status, documents = drover(node1, "image", "rm", "base.raw", "--yes", check=False)
        assert status == REFUSED, documents
    finally:
        guest.remove(node1)
    assert leftovers(lab.pool / "images") == []


def mover_arguments(node):
    """The words of a node's drover-wire that carries a stream."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if words[0].endswith("drover-wire") and words[1] in ("send", "recv") and (
                    os.readlink(f"/proc/{path.parent.name}/ns/net") == node_namespace(node)):
                return words
    return None


def node_namespace(node):
    return os.readlink(f"/proc/{node.holder}/ns/net")


def test_a_stale_index_is_made_again_when_a_move_begins(lab):
    node1, node2 = lab.nodes
    base = put_base(lab, "stale.raw", seed=1)
    guest = Guest(lab, node1, "stale",
                  disk="disk0.qcow2,backing=images/stale.raw,backing_format=raw", fill=False)
    try:
        wait_for(lambda: index_state(node1, "stale.raw") == "fresh", "the index")
        os.utime(base, (1, 1))
        assert index_state(node1, "stale.raw") == "stale"
        drover(node1, "migrate", guest.name, "node2")
        wait_for(lambda: index_state(node2, "stale.raw") == "fresh", "the index")
        guest.ask("status")
    finally:
        guest.remove(node2)
    drover(node1, "image", "rm", "stale.raw", "--yes")
    assert not base.exists()


def test_pages_of_the_base_image_go_as_references_and_never_wrong(lab):
    """The guest's test program, which it runs, is in the base image; then it is not any more, though
    size, time, beginning and end of the image say so."""
    node1, node2 = lab.nodes
    program = (GUESTS / "drover-guest").read_bytes()
    program += b"\0" * (-len(program) % BLOCK)
    base = put_base(lab, "guest.raw", blocks=256, seed=2)
    with open(base, "ab") as file:
        file.write(program + contents(256, 3))
    guest = Guest(lab, node1, "referring",
                  disk="disk0.qcow2,backing=images/guest.raw,backing_format=raw")
    try:
        wait_for(lambda: index_state(node1, "guest.raw") == "fresh", "the index")
        (source,) = move(guest, node1, node2)["sources"]
        assert source["name"] == "images/guest.raw"
        assert source["hits"] >= len(program) // BLOCK // 2 and source["misses"] == 0, source

        before = base.stat()
        with open(base, "r+b") as file:
            file.seek(1 << 20)
            file.write(contents(len(program) // BLOCK, 4))
        os.utime(base, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert index_state(node2, "guest.raw") == "fresh"
        (source,) = move(guest, node2, node1)["sources"]
        assert source["misses"] > 0, source
    finally:
        guest.remove(node1)


def test_a_base_image_that_the_data_mover_may_not_read_is_done_without(lab):
    """The hypervisor's user may, and the guest moves."""
    node1, node2 = lab.nodes
    base = put_base(lab, "closed.raw", blocks=256, seed=5)
    guest = Guest(lab, node1, "closed",
                  disk="disk0.qcow2,backing=images/closed.raw,backing_format=raw")
    try:
        wait_for(lambda: index_state(node1, "closed.raw") == "fresh", "the index")
        os.chown(base, VM_USER, VM_USER)
        base.chmod(0o640)
        assert not move(guest, node1, node2).get("sources")
        assert "does without images/closed.raw" in node1.log.read_text()
    finally:
        guest.remove(node2)


def move(guest, source, destination):
    """Moves it; its report. Its memory is right then, and it still answers."""
    _, documents = drover(source, "migrate", guest.name, destination.name)
    guest.assert_runs_only_on(destination)
    return documents[-1]["result"]["report"]
