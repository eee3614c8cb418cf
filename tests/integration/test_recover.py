"""`drover recover`: what it refuses, and that a copy on a node that was held for dead is ended."""

import contextlib
import os
import signal
import subprocess

import pytest

from vms import FILL_MIB, Guest, drover, error_of, guest_client, leftovers, wait_for


@pytest.fixture(scope="module")
def two(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("two", nodes=2)


@pytest.fixture
def nodes(two):
    """node1 and node2, both with a droverd without fault points at the end."""
    yield two.nodes
    for node in two.nodes:
        node.stop_daemon()
        node.start_daemon()


@pytest.fixture
def guest(two, nodes, request):
    """On node1; with a disk where the test is marked so."""
    disk = "disk0.qcow2,size=16M" if getattr(request, "param", None) == "disk" else None
    it = Guest(two, nodes[0], f"vm-{abs(hash(request.node.name)) % 10**8}", disk=disk)
    yield it
    for node in two.nodes:
        if it.pids(node):
            drover(node, "stop", it.name, "--timeout", "0", check=False)
    drover(nodes[0], "rm", it.name, "--yes", check=False)


@contextlib.contextmanager
def cut_off(node):
    """The node reaches no other node, and none reaches it; the pool is there as before."""
    link = ["ip", "-n", node.namespace, "link", "set", "mig0"]
    subprocess.run([*link, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run([*link, "up"], check=True)


def refusal(node, guest, *options, kind="refused"):
    """What recover says that does not do it; the VM is where it was."""
    _, (before,) = drover(node, "show", guest.name)
    status, documents = drover(node, "recover", guest.name, "--yes", *options, check=False)
    assert status != 0
    _, (after,) = drover(node, "show", guest.name)
    assert (before["node"], before["epoch"]) == (after["node"], after["epoch"])
    error = error_of(documents)
    assert error["kind"] == kind, error
    return error["message"]


def log_of(node):
    return node.log.read_text()


def assert_starts_on(node, guest):
    drover(node, "start", guest.name)
    guest_client.wait_ready(guest.lab.guests, guest.address, 60)
    guest.ask("fill", FILL_MIB, "text")
    guest.assert_runs_only_on(node)


@pytest.mark.parametrize("guest", ["disk"], indirect=True)
@pytest.mark.parametrize("options", [[], ["--fenced"]])
def test_refuses_while_the_owner_answers_whatever_is_said(nodes, guest, options):
    """Nor is --fenced advised, as for a lock whose owner is silent."""
    message = refusal(nodes[1], guest, *options)
    assert "node1 answers and has it (running)" in message, message
    guest.assert_runs_only_on(nodes[0])


def test_refuses_a_vm_that_is_ours_or_nobodys(nodes, guest):
    node1, node2 = nodes
    assert "has a hypervisor on node1" in refusal(node1, guest, kind="running")
    drover(node1, "stop", guest.name, "--timeout", "0")
    for node in nodes:
        assert f"`drover start {guest.name}`" in refusal(node, guest)
    status, answer = drover(node1, "rename", guest.name, guest.name, check=False)
    assert status and "has that name" in error_of(answer)["message"], answer
    node2.stop_daemon()
    node2.start_daemon(DROVER_FAULT="vm.stop.before_release:error")
    drover(node2, "start", guest.name)
    drover(node2, "stop", guest.name, "--timeout", "0", check=False)
    assert "belongs to node2 already" in refusal(node2, guest)
    message = refusal(node1, guest)
    assert "does not run it" in message and f"start {guest.name} --node node2" in message, message
    assert drover(node1, "recover", "nosuchvm", "--yes", check=False)[0] == 5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "stuck"])
def test_refuses_while_only_droverd_is_down_there_until_it_is_fenced(nodes, guest, how):
    """The hypervisor that goes on there is ended before anything else, as soon as droverd is back."""
    node1, node2 = nodes
    (pid,) = guest.pids(node1)
    if how == signal.SIGKILL:
        node1.stop_daemon(how)
    else:
        os.kill(node1.daemon_pid, how)
    try:
        message = refusal(node2, guest)
        assert "its machine does" in message and "--fenced" in message, message
        assert guest.pids(node1) == [pid]
        _, (answer,) = drover(node2, "recover", guest.name, "--yes", "--fenced")
        assert (answer["from"], answer["node"], answer["started"]) == ("node1", "node2", False)
        assert guest.pids(node2) == []
    finally:
        if how == signal.SIGSTOP:
            os.kill(node1.daemon_pid, signal.SIGCONT)
    if how == signal.SIGKILL:
        node1.start_daemon()
    wait_for(lambda: not guest.pids(node1), "the end of the copy that was lost")
    assert f"{guest.name}: ENDING its copy on node1: the VM belongs to node2" in log_of(node1)
    wait_for(lambda: leftovers(node1, []) == [], "the end of what it left")
    assert_starts_on(node2, guest)


@pytest.mark.parametrize("guest", ["disk"], indirect=True)
def test_refuses_while_a_hypervisor_holds_the_lock_of_a_disk(nodes, guest):
    node1, node2 = nodes
    with cut_off(node1):
        message = refusal(node2, guest)
        assert "disk0.qcow2" in message and "lock" in message, message
        os.kill(guest.pids(node1)[0], signal.SIGSTOP)  # a guest that stands still has it too
        assert "lock" in refusal(node2, guest)
        os.kill(guest.pids(node1)[0], signal.SIGCONT)
    guest.assert_runs_only_on(node1)


def test_takes_over_from_a_node_that_is_cut_off_which_ends_its_copy(nodes, guest):
    node1, node2 = nodes
    with cut_off(node1):
        status, documents = drover(node2, "recover", guest.name, check=False)
        assert (status, error_of(documents)["kind"]) == (2, "usage"), documents
        _, (before,) = drover(node2, "show", guest.name)
        assert before["node"] == "node1" and guest.pids(node1)
        _, (answer,) = drover(node2, "recover", guest.name, "--yes")
        assert answer["epoch"] == before["epoch"] + 1
        wait_for(lambda: not guest.pids(node1), "the end of the copy that was lost")
        assert "ENDING its copy" in log_of(node1)
    assert "taken over from node1" in log_of(node2)
    wait_for(lambda: leftovers(node1, []) == [], "the end of what it left")
    assert_starts_on(node2, guest)


def test_a_pool_that_was_put_back_from_a_backup_ends_no_copy(nodes, guest):
    """Its owner files are older than what node2 has claimed; the next droverd knows that too."""
    node1, node2 = nodes
    drover(node1, "migrate", guest.name, "node2")
    directory = guest.lab.pool / "vms" / guest.name
    newest = max(directory.glob("owner.*"), key=lambda path: int(path.suffix[1:]))
    content = newest.read_bytes()
    newest.unlink()
    size = node2.log.stat().st_size
    for said in range(1, 3):
        wait_for(lambda said=said: node2.log.read_text()[size:].count("put back from a backup")
                 == said, "the pool's being found too old")
        assert len(guest.pids(node2)) == 1
        node2.stop_daemon()
        node2.start_daemon()
    guest.assert_memory_is_right()
    newest.write_bytes(content)
    guest.assert_runs_only_on(node2)


def test_a_pool_that_is_not_mounted_is_called_that(nodes, guest):
    conf = guest.lab.pool / "pool.conf"
    aside = conf.rename(conf.with_name("aside"))
    vms = (guest.lab.pool / "vms").rename(guest.lab.pool / "vms.aside")
    try:
        for node, command in ((nodes[0], ["migrate", guest.name, "node2"]),
                              (nodes[1], ["start", guest.name])):
            status, documents = drover(node, *command, check=False)
            assert status != 0 and error_of(documents)["kind"] == "pool", documents
            assert "is the shared storage mounted?" in error_of(documents)["message"]
    finally:
        vms.rename(guest.lab.pool / "vms")
        aside.rename(conf)
    guest.assert_runs_only_on(nodes[0])


def test_a_droverd_that_dies_while_it_takes_over_has_taken_nothing(nodes, guest):
    node1, node2 = nodes
    node2.stop_daemon()
    node2.start_daemon(DROVER_FAULT="vm.recover.before_claim:kill")
    with cut_off(node1):
        assert drover(node2, "recover", guest.name, "--yes", check=False)[0] != 0
        wait_for(lambda: node2.daemon_pid is None, "the death of node2's droverd")
    node2.start_daemon()
    guest.assert_runs_only_on(node1)


def test_a_droverd_that_dies_before_it_ends_a_lost_copy_ends_it_when_it_is_back(nodes, guest):
    node1, node2 = nodes
    node1.stop_daemon()
    node1.start_daemon(DROVER_FAULT="vm.lost.before_end:kill")
    with cut_off(node1):
        drover(node2, "recover", guest.name, "--yes")
        wait_for(lambda: node1.daemon_pid is None, "the death of node1's droverd")
        assert len(guest.pids(node1)) == 1
        node1.start_daemon()
        wait_for(lambda: not guest.pids(node1), "the end of the copy that was lost")
    assert_starts_on(node2, guest)


def test_starts_it_when_asked_to(nodes, guest):
    """The whole node dies: its droverd, its hypervisor, and its network."""
    node1, node2 = nodes
    with cut_off(node1):
        node1.stop_daemon(signal.SIGKILL)
        os.kill(guest.pids(node1)[0], signal.SIGKILL)
        _, (answer,) = drover(node2, "recover", guest.name, "--yes", "--start")
        assert answer["started"] is True
        guest_client.wait_ready(guest.lab.guests, guest.address, 60)
    node1.start_daemon()
    guest.ask("fill", FILL_MIB, "text")
    guest.assert_runs_only_on(node2)


def test_refuses_while_a_migration_of_it_has_not_ended_here(nodes, guest):
    node1, node2 = nodes
    move = node1.popen("drover", "migrate", guest.name, "node2", "--bandwidth", "2M", "--json",
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: guest.pids(node2), "a hypervisor on node2", 60)
        status, documents = drover(node2, "recover", guest.name, "--yes", "--fenced", check=False)
        assert status != 0 and error_of(documents)["kind"] == "busy", documents
    finally:
        move.send_signal(signal.SIGINT)
        move.wait(60)
    guest.assert_runs_only_on(node1)
