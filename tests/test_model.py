"""docs/handover.pml keeps what it promises, and what is broken in it on purpose is found."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "model"))

import handover  # noqa: E402


def _named(searches):
    return [pytest.param(search, id=search.says.replace(" ", "-")) for search in searches]


@pytest.mark.parametrize("search", _named(handover.HOLDS + handover.POSTCOPY_HOLDS))
def test_the_handover_holds_with(search):
    found = handover.run(search)
    assert handover.holds(search, found), found


@pytest.mark.parametrize("search", _named(handover.BROKEN + handover.POSTCOPY_BROKEN))
def test_a_broken_handover_is_found(search):
    assert handover.finds(search, handover.run(search))


@pytest.mark.parametrize("search", _named(handover.REACHED))
def test_the_model_reaches(search):
    assert handover.finds(search, handover.run(search))
