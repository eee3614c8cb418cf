"""The core of the fault matrix (tests/faults), on a real guest; `make check-faults` tries all of it.
And that every fault point is in the list, and tried somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from droverlab.paths import PROGRAMS, ROOT

sys.path.append(str(Path(__file__).resolve().parents[1] / "faults"))

import cells  # noqa: E402
import outcomes  # noqa: E402
from run import Labs  # noqa: E402


@pytest.fixture(scope="module")
def labs(tiny_guest):  # pylint: disable=unused-argument
    it = Labs("check" + os.environ.get("PYTEST_XDIST_WORKER", ""))
    yield it
    it.down()


@pytest.mark.parametrize("cell", cells.core_cells(), ids=str)
def test_a_fault_leaves_one_whole_copy_and_the_truth(labs, cell):
    labs.run(cell)


def test_it_is_known_of_each_cell_how_it_must_end():
    ends = [outcomes.right(cell) for cell in cells.all_cells()]
    assert all(ends)
    assert all(outcomes.right(cell, holds_back=True) for cell in cells.all_cells(cells.BHYVE_POINTS))
    assert sum(len(right) == 1 for right in ends) > len(ends) * 3 // 4


def listed():
    said = subprocess.run([PROGRAMS / "src/daemon/droverd", "--list-faults"], check=True,
                          capture_output=True, text=True).stdout
    return [line.split()[0] for line in said.splitlines()]


def test_every_fault_point_is_listed_once_and_passed_somewhere():
    passed = {point for file in (ROOT / "src").rglob("*.c")
              for point in re.findall(r'fault_point\(\s*"([^"]+)"', file.read_text())}
    assert sorted(listed()) == sorted(passed)


def test_every_fault_point_is_in_the_matrix_or_in_a_test_of_its_own():
    tried = {point for _, _, point in cells.POINTS + cells.BHYVE_POINTS}
    assert set(listed()) == tried | cells.ELSEWHERE
    tests = "".join(file.read_text() for file in (ROOT / "tests/integration").glob("*.py"))
    for point in cells.ELSEWHERE:
        assert point in tests, f"no test has {point}"
