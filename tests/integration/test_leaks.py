"""droverd, built with AddressSanitizer, in the lab: nothing that it took is lost when it stops, whatever
it was at."""

import os
import sys
from pathlib import Path

import pytest

from moving import migration_of, move_in_background, wait_rounds
from vms import SharedGuest, drover, postcopy_lab, wait_for

sys.path.append(str(Path(__file__).resolve().parents[1] / "fuzz"))

import fuzz  # noqa: E402

# So slow that it does not come to an end before droverd is stopped.
LANE = "2M"


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    fuzz.build([], "src/daemon/droverd")
    return postcopy_lab(make_lab)


@pytest.fixture(scope="module")
def shared(two):
    return SharedGuest(two, "leak", postcopy=True)


@pytest.fixture
def guest(shared, two):
    for node in two.nodes:
        if node.daemon_pid is None:
            node.start_daemon()
    yield shared.take()
    shared.rest()


def checked(node):
    """Starts droverd with a look at its memory when it ends."""
    node.stop_daemon()
    node.start_daemon(under=("sh", "-c", 'shift; exec "$0" "$@"',
                             str(fuzz.BUILD / "src/daemon/droverd")),
                      ASAN_OPTIONS="detect_leaks=1:abort_on_error=0")


def stop_and_look(node):
    """Stops it: what its memory was like."""
    size = node.log.stat().st_size
    node.stop_daemon()
    said = node.log.read_text(errors="replace")[size:]
    # It would not have been looked at.
    assert "work left" not in said, said
    return said


@pytest.mark.parametrize("number", [0, 1])
def test_a_droverd_that_stops_amid_a_migration_loses_no_memory(two, guest, number):
    """Which is left for its next start: the VM that it has taken, and its link to the other node."""
    node1, node2 = two.nodes
    node = two.nodes[number]
    checked(node)
    moving = move_in_background(node1, guest.name, "node2", "--bandwidth", LANE, "--postcopy=1000")
    found = wait_rounds(node1, guest)
    wait_for(lambda: (m := migration_of(node2, guest, "running")) and m["step"] == "stream",
             "the stream")
    said = stop_and_look(node)
    assert "Sanitizer" not in said, said
    node.start_daemon()
    drover(node1, "migration", "cancel", found["id"], check=False)
    moving.communicate(timeout=120)
    wait_for(lambda: not migration_of(node1, guest, "running"), "the end of the migration", 90)
    guest.assert_runs_only_on(node1)
