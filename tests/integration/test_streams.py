"""The stream parser on streams of real guests: both versions of QEMU, pre-copy and post-copy, and
every capability that changes what the stream looks like."""

import pytest
import streamlab
from droverlab.paths import PROGRAMS
from streamlab import Guest, Relay

PROGRAM = PROGRAMS / "tests" / "unit" / "stream_table"
VERSIONS = ("7.2", "10.0")
TWO_BLOCKS = ("-m", "128M", "-object", "memory-backend-ram,id=m0,size=80M", "-object",
              "memory-backend-ram,id=m1,size=48M", "-numa", "node,memdev=m0", "-numa",
              "node,memdev=m1")
# Changes memory without end: new contents, and the same with a few bytes changed.
DIRTY = ("dd if=/dev/urandom of=/a bs=64k count=100 2>/dev/null",
         "(while :; do date >/d; cat /d | dd of=/a conv=notrunc bs=64 seek=$((RANDOM * 3)); "
         "dd if=/a of=/b bs=64k; done 2>/dev/null) &")
# So that a guest that changes its memory takes several rounds; ROUNDS later it may end.
SLOW = 40 << 20
ROUNDS = 3


def shared_block(folder):
    """m1 is a file that both hypervisors could open, as x-ignore-shared wants it."""
    return ("-m", "128M", "-object", "memory-backend-ram,id=m0,size=80M", "-object",
            f"memory-backend-file,id=m1,size=48M,share=on,mem-path={folder}/m1", "-numa",
            "node,memdev=m0", "-numa", "node,memdev=m1")


@pytest.fixture
def guests(tmp_path, tiny_guest):
    """guests(VERSION, memory=, machine=, incoming=) starts one; all are ended."""
    assert tiny_guest
    started = []

    def start(version, memory=TWO_BLOCKS, **options):
        started.append(Guest(tmp_path, version, memory, **options))
        return started[-1]

    yield start
    for guest in started:
        guest.end()
    for name in ("stream", "m1"):  # some 100 MB
        (tmp_path / name).unlink(missing_ok=True)


def slow(source):
    source.qmp.execute("migrate-set-parameters", max_bandwidth=SLOW, downtime_limit=10)


def end_after_rounds(source):
    source.qmp.wait_event("MIGRATION_PASS", streamlab.LIMIT_S, **{"pass": ROUNDS})
    source.qmp.execute("migrate-set-parameters", max_bandwidth=0, downtime_limit=2000)


def completed(source):
    source.qmp.wait_event("MIGRATION", streamlab.LIMIT_S, status="completed")
    return source.ram()


def to_file(source, path, during=None):
    """Moves the guest into a file; QEMU's own counts."""
    source.qmp.execute("migrate", uri=f"exec:cat >{path}")
    if during:
        during(source)
    return completed(source)


def check(path):
    """The parser finds what a plain walk finds, however the stream is cut; the walk."""
    walk = streamlab.walk_stream(path.read_bytes())
    print(streamlab.describe(walk))
    for seed in ((), (1,), (2,)):
        counts, pages = streamlab.parse(PROGRAM, "auto", path, *seed)
        assert counts[0] == "qemu"
        assert counts[4] == 0, f"{counts[4]} bytes unknown of {path.stat().st_size}"
        assert counts[1:3] == (walk.forms.get("full", 0), walk.forms.get("zero", 0))
        assert pages == walk.pages
    return walk


def check_counts(walk, ram):
    """QEMU counts the same."""
    assert ram["normal"] == walk.forms.get("full", 0)
    assert ram["duplicate"] == walk.forms.get("zero", 0)


@pytest.mark.parametrize("version,machine", (("7.2", "7.2"), ("10.0", "7.2"), ("10.0", "10.0")))
def test_every_page_of_a_pre_copy_is_found(guests, tmp_path, version, machine):
    source = guests(version, machine=machine)
    source.boot(*DIRTY)
    source.capabilities()
    slow(source)
    ram = to_file(source, tmp_path / "stream", end_after_rounds)
    walk = check(tmp_path / "stream")
    check_counts(walk, ram)
    assert ram["dirty-sync-count"] > 2 and {"m0", "m1", "0000:00:01.0/vga.vram"} <= {*walk.blocks}


@pytest.mark.parametrize("version", VERSIONS)
def test_pages_between_xbzrle_are_found(guests, tmp_path, version):
    source = guests(version)
    source.boot(*DIRTY)
    source.capabilities("xbzrle")
    slow(source)
    ram = to_file(source, tmp_path / "stream", end_after_rounds)
    walk = check(tmp_path / "stream")
    assert walk.forms["xbzrle"] > 10
    check_counts(walk, ram)


def test_pages_that_qemu_compresses_are_passed_over(guests, tmp_path):
    source = guests("7.2")
    source.boot()
    source.capabilities("compress")
    to_file(source, tmp_path / "stream")
    walk = check(tmp_path / "stream")
    assert walk.forms["compressed"] > 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_blocks_that_stay_shared_have_no_pages(guests, tmp_path, version):
    source = guests(version, memory=shared_block(tmp_path))
    source.boot()
    source.capabilities("x-ignore-shared")
    ram = to_file(source, tmp_path / "stream")
    walk = check(tmp_path / "stream")
    check_counts(walk, ram)
    assert walk.blocks.index("m1") not in {page.block for page in walk.pages}


def test_mapped_ram_is_opaque(guests, tmp_path):
    source = guests("10.0")
    source.boot()
    source.capabilities("mapped-ram")
    source.qmp.execute("migrate", uri=f"file:{tmp_path}/stream")
    completed(source)
    (name, full, zero, _, unknown), pages = streamlab.parse(PROGRAM, "auto", tmp_path / "stream")
    assert (name, full, zero, pages) == ("opaque", 0, 0, [])
    assert unknown > (tmp_path / "stream").stat().st_size - 1000


def through_relay(guests, folder, version, capabilities, during=end_after_rounds):
    """Moves the guest to another hypervisor through a relay: the walk and QEMU's counts. The
    destination has loaded everything."""
    destination = guests(version, incoming=True)
    relay = Relay(folder, folder / "destination.sock")
    source = guests(version)
    try:
        source.boot(*DIRTY)
        destination.capabilities(*capabilities)
        destination.qmp.execute("migrate-incoming", uri=f"unix:{folder}/destination.sock")
        source.capabilities(*capabilities)
        slow(source)
        source.qmp.execute("migrate", uri=f"unix:{relay.path}")
        during(source)
        ram = completed(source)
        destination.qmp.wait_event("MIGRATION", streamlab.LIMIT_S, status="completed")
    finally:
        for guest in (destination, source):
            guest.end()
        relay.end()
    return check(relay.record), ram


@pytest.mark.parametrize("version", VERSIONS)
def test_pages_are_found_on_both_sides_of_the_switch_to_post_copy(guests, tmp_path, version):
    def switch(source):
        source.qmp.wait_event("MIGRATION_PASS", streamlab.LIMIT_S, **{"pass": 2})
        source.qmp.execute("migrate-start-postcopy")

    walk, ram = through_relay(guests, tmp_path, version, ("postcopy-ram", "return-path"), switch)
    check_counts(walk, ram)
    assert {1, 2, 3, 6, 7} <= {*walk.commands}
    packaged = walk.commands.index(7)
    assert 3 in walk.commands[:packaged] and ram["postcopy-bytes"] > 1 << 20


@pytest.mark.parametrize("version", VERSIONS)
def test_return_path_changes_nothing_for_the_parser(guests, tmp_path, version):
    acknowledged = ("switchover-ack",) if version == "10.0" else ()
    walk, ram = through_relay(guests, tmp_path, version, ("return-path", *acknowledged))
    check_counts(walk, ram)
    assert walk.commands[:2] == [1, 2]


@pytest.mark.parametrize("version", VERSIONS)
def test_main_channel_of_multifd_is_walked(guests, tmp_path, version):
    walk, _ = through_relay(guests, tmp_path, version, ("multifd",))
    assert version != "10.0" or walk.forms["0x200"] > 1
