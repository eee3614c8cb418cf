"""Nodes with different QEMUs: what moves, and what is refused with its reason."""

import pytest

from vms import Guest, Watch, drover, error_of


@pytest.fixture(scope="module")
def mixed(make_lab, tiny_guest):  # pylint: disable=unused-argument
    return make_lab("mixed", nodes=2, qemu={"node1": "7.2"})


def test_from_7_2_a_guest_under_tcg_moves_only_paused(mixed):
    node1, node2 = mixed.nodes
    guest = Guest(mixed, node1, "old")
    status, documents = drover(node1, "migrate", "old", "node2", check=False)
    assert error_of(documents)["kind"] == "hypervisor" and status == error_of(documents)["exit"]
    assert "7.2" in error_of(documents)["message"] and "--pause" in error_of(documents)["message"]
    guest.assert_runs_only_on(node1)
    with Watch(guest) as watch:
        drover(node1, "migrate", "old", "node2", "--pause")
    guest.assert_runs_only_on(node2)
    assert watch.result["tcp_survived"], watch.result
    guest.remove(node2)


def test_a_machine_type_that_the_other_hypervisor_lacks_is_named(mixed):
    node1, node2 = mixed.nodes
    guest = Guest(mixed, node2, "new")
    _, documents = drover(node2, "migrate", "new", "node1", check=False)
    assert error_of(documents)["kind"] == "hypervisor"
    assert "pc-q35-10.0" in error_of(documents)["message"] and "node1" in error_of(documents)["message"]
    guest.assert_runs_only_on(node2)
    guest.remove(node2)
    assert guest.pids(node1) == []
