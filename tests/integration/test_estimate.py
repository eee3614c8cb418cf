"""The estimate of a move: what `drover migrate --check` says before it, what the report says after
it, and that nothing that goes wrong with it keeps a VM from being moved."""

import pytest

from droverlab.lab import SHARED
from vms import Guest, drover
from vms import assert_nothing_is_left as assert_nothing_left_on

RATE_MBIT = 200
FIGURES = ("total_ms", "wire_bytes", "downtime_ms")


@pytest.fixture(name="two", scope="module")
def fixture_two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("two", nodes=2, rate_mbit=RATE_MBIT)


@pytest.fixture(name="guest", scope="module")
def fixture_guest(two):
    """Where it runs is known by its `at`; `to` is the other node."""
    guest = Guest(two, two.nodes[0], "web1")
    guest.at, guest.to = two.nodes
    return guest


def check(guest, *options):
    _, (report,) = drover(guest.at, "migrate", guest.name, guest.to.name, "--check", *options)
    return report


def move(guest, *options):
    """The report of a move; the guest changes places."""
    _, documents = drover(guest.at, "migrate", guest.name, guest.to.name, *options)
    guest.at, guest.to = guest.to, guest.at
    guest.assert_runs_only_on(guest.at)
    return documents[-1]["result"]["report"]


def assert_nothing_is_left(guest):
    left = guest.at.run("ls", "-A", f"/run/drover/vms/{guest.name}").stdout.split()
    assert "sample" not in left, left
    for node in (guest.at, guest.to):
        assert_nothing_left_on(node, guest.pids(node))


def test_an_idle_guest_is_said_to_converge_and_what_it_takes(guest):
    estimate = check(guest)["estimate"]
    assert estimate["converges"] == "yes", estimate
    for figure in FIGURES:
        low, high = estimate[figure]
        assert 0 < low < high, estimate
    said = " ".join(estimate["because"])
    assert "the link carried" in said and "pages" in said, said
    # 32 MiB of text that it has filled are more than nothing, and it has 192 MiB.
    assert estimate["wire_bytes"][0] > 1 << 20
    assert estimate["wire_bytes"][1] < 192 << 20
    assert_nothing_is_left(guest)


def test_it_is_printed_below_the_checks(guest):
    shown = guest.at.run("drover", "migrate", guest.name, guest.to.name, "--check").stdout
    table, found, below = shown.partition("estimate:\n")
    assert found and "reachable" in table, shown
    for word in ("time", "network", "stands still", "converges", "because"):
        assert word in below, shown
    assert f"{guest.name} can be moved to {guest.to.name}" in below


def test_what_changes_faster_than_the_link_is_said_not_to_converge(guest):
    guest.ask("fill", 96, "random")
    guest.ask("dirty", 80, "page")
    try:
        shown = guest.at.run("drover", "migrate", guest.name, guest.to.name, "--check",
                             "--bandwidth", "2M").stdout
        estimate = check(guest)["estimate"]
        paused = check(guest, "--pause")["estimate"]
    finally:
        guest.ask("stop")
    # The last line does not say that all is well; the limit is not what keeps this one.
    assert "would not come to an end" in shown.splitlines()[-1] and "can be" not in shown, shown
    assert estimate["converges"] == "no", estimate
    assert estimate["total_ms"] is None, estimate
    assert any("--postcopy" in reason for reason in estimate["because"]), estimate
    # Standing still it changes nothing, and stands still for all of the move.
    assert paused["converges"] == "yes", paused
    assert paused["downtime_ms"][0] > 1000, paused


def test_the_report_says_how_far_off_it_was(guest):
    """How often it is right is bench/estimate.py's to say: that depends on the machine."""
    report = move(guest, "--estimate")
    compared = report["estimate"]["compared"]
    assert set(compared) == set(FIGURES), report["estimate"]
    for figure in FIGURES:
        low, high = report["estimate"][figure]
        actual = report[figure]
        assert compared[figure]["actual"] == actual
        assert compared[figure]["inside"] == (low <= actual <= high), compared
        off = compared[figure]["off_percent"]
        assert (off > 0) == (actual > high) and (off < 0) == (actual < low), compared
    _, (listed,) = drover(guest.at, "migration", "ls")
    last = max(listed["migrations"], key=lambda m: m["started_ms"])
    shown = guest.at.run("drover", "migration", "show", last["id"], "--node", last["from"]).stdout
    assert "estimated:    time" in shown, shown
    assert_nothing_is_left(guest)


def test_a_move_has_the_estimate_of_the_check_before_it_once(guest):
    estimate = check(guest)["estimate"]
    compared = move(guest)["estimate"]
    assert compared["total_ms"] == estimate["total_ms"], compared
    assert set(compared["compared"]) == set(FIGURES), compared
    assert "estimate" not in move(guest)
    check(guest)
    assert "estimate" not in move(guest, "--bandwidth", "100M"), "another move"


def test_none_is_made_when_it_is_turned_off(guest):
    assert "estimate" not in check(guest, "--no-estimate")
    assert "estimate" not in move(guest)


def test_a_sample_that_cannot_be_had_is_said_and_stops_nothing(guest):
    place = f"/run/drover/vms/{guest.name}/sample"
    guest.at.run("mkdir", place)
    try:
        estimate = check(guest)["estimate"]
        report = move(guest, "--estimate")
    finally:
        for node in (guest.at, guest.to):
            node.run("sh", "-c", f"rmdir {place} || true")
    for one in (estimate, report["estimate"]):
        assert any("not known" in reason and place in reason for reason in one["because"]), one
        low, high = one["wire_bytes"]
        assert high > 4 * low, one


def test_a_probe_leaves_the_only_port_to_a_migration(guest):
    """One port for lanes: the probe that has it ends for the migration."""
    conf = guest.to.path(f"{SHARED}/drover.conf")
    text = conf.read_text()
    conf.write_text(text.replace("[wire]\n", "[wire]\nport_min=7850\nport_max=7850\n", 1))
    guest.to.stop_daemon()
    guest.to.start_daemon()
    there = guest.to
    try:
        report = move(guest, "--estimate")
        assert "estimate" in report
    finally:
        conf.write_text(text)
        there.stop_daemon()
        there.start_daemon()


def test_a_link_that_cannot_be_measured_is_said_and_stops_nothing(guest):
    """The other node receives as many probes as it may: lanes that nobody connects."""
    files = " ".join(f"--{option} {SHARED}/state/{name}" for option, name in (
        ("cert", "node.crt"), ("key", "node.key"), ("cacert", "ca.crt")))
    url = f"https://{guest.to.address}:7780/v1/probes"
    guest.at.run("sh", "-c", "for i in 1 2 3 4; do "
                 f"curl -skf {files} -d '{{\"id\": \"p'$i'\"}}' {url} || exit 1; done")
    report = move(guest, "--estimate")
    assert report["estimate"]["total_ms"] is None, report["estimate"]
    assert any("the time is not known" in reason for reason in report["estimate"]["because"])
    assert report["estimate"]["wire_bytes"], report["estimate"]
