"""The long run's oracles tell a violation from what is allowed; the run itself is `make soak`."""

import sys
from pathlib import Path

import pytest

sys.path[1:1] = [str(Path(__file__).parent / name) for name in ("soak", "integration")]

from load import Load, Vm  # noqa: E402
from record import Record  # noqa: E402
from watches import Epochs, Pair  # noqa: E402


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path, 7)


@pytest.mark.parametrize("newer, older, twice", [
    ([0, 0, 9, 19], [0, 30, 60, 60], False),  # a handover
    ([0, 9, 19, 29], [0, 30, 30, 30], False),  # one within a sample
    ([1, 1, 1, 2], [0, 30, 60, 90], False),  # the destination waits
    ([0, 9, 19, 29], [0, 9, 19, 29], True),
    ([0, 4, 6, 9, 9], [0, 0, 4, 6, 9], True),
    ([0, 6, 6, 6], [0, 0, 4, 4], False)])
def test_a_handover_is_no_second_copy_and_an_overlap_is_one(newer, older, twice):
    pair = Pair()
    assert any([pair.sample(n * 10**6, o * 10**6) for n, o in zip(newer, older)]) is twice


def test_two_nodes_that_say_running_in_one_epoch_are_a_violation(record):
    epochs = Epochs(record)
    for node, epoch in (("node1", 1), ("node2", 2), ("node2", 2)):
        epochs.say("node3", {"name": "a", "node": node, "epoch": epoch, "state": "running"})
    assert not record.violations
    epochs.say("node1", {"name": "a", "node": "node1", "epoch": 2, "state": "running"})
    assert record.violations == ["a is running in epoch 2 on node2, as node3 said, and on node1, as node1 says"]


class FakeVm(Vm):
    """A VM whose guest answers what it is told to."""

    def __init__(self, record, answers):  # pylint: disable=super-init-not-called
        self.name, self.record, self.answers, self.disk = "a", record, answers, True
        self.acknowledged, self.excuses, self.started = 0, [], []
        self.lab = type("NoLab", (), {"nodes": ["node1"]})

    def ask(self, *command, timeout=60):
        return self.answers[command[0]]

    def copies(self):
        return []

    def owner(self):
        return 1, None

    def find_broken_postcopy(self):
        return False

    def start(self, node):
        self.started.append(node)


@pytest.mark.parametrize("records, acknowledged, right", [(10, 10, True), (9, 10, False)])
def test_a_record_that_was_acknowledged_and_is_not_there_is_a_violation(record, records, acknowledged,
                                                                       right):
    vm = FakeVm(record, {"diskcheck": {"ok": True, "records": records}})
    vm.acknowledged = acknowledged
    vm.check_disk()
    assert bool(record.violations) is not right


@pytest.mark.parametrize("bad, pages, right", [(0, 4096, True), (1, 4096, False), (0, 0, False)])
def test_a_page_that_is_wrong_is_a_violation(record, bad, pages, right):
    FakeVm(record, {"check": {"bad": bad, "pages": pages}}).check_memory()
    assert bool(record.violations) is not right


@pytest.mark.parametrize("excuse", [None, "it was stopped"])
def test_a_vm_that_is_gone_without_an_excuse_is_a_violation_and_is_started(record, excuse):
    vm = FakeVm(record, {})
    vm.excuses += [excuse] if excuse else []
    Load(record, vm, 1).one()
    assert bool(record.violations) is (excuse is None)
    assert vm.started == ["node1"]
