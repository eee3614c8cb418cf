"""Two nodes and a guest that is moved between them, for the tests of moves, and how a move is watched."""

import subprocess

import pytest

from vms import SharedGuest, migrations, wait_for


@pytest.fixture(name="two", scope="module")
def fixture_two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("two", nodes=2)


@pytest.fixture(name="nodes")
def fixture_nodes(two):
    """node1 and node2, both with a droverd; one that a test has ended is started again."""
    for node in two.nodes:
        if node.daemon_pid is None:
            node.start_daemon()
    return two.nodes


@pytest.fixture(name="shared", scope="module")
def fixture_shared(two):
    return SharedGuest(two, "vm")


@pytest.fixture(name="guest")
def fixture_guest(shared, nodes):  # pylint: disable=unused-argument
    yield shared.take()
    shared.rest()


def restart_with_fault(node, fault):
    """droverd again, with a fault point armed."""
    node.stop_daemon()
    node.start_daemon(DROVER_FAULT=fault)


def move_in_background(node, *arguments):
    return node.popen("drover", "migrate", *arguments, "--json", stdin=subprocess.DEVNULL,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def migration_of(node, guest, state):
    """The newest migration of a guest that a node knows, when it is in that state."""
    found = migrations(node, guest)
    return found[0] if found and found[0]["state"] == state else None


def wait_rounds(node, guest):
    """Waits until a migration of the guest sends its memory."""
    return wait_for(lambda: (m := migration_of(node, guest, "running")) and m["step"] == "stream" and m,
                    "the first round", 90)
