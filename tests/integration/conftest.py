"""Labs for the integration tests. Each has a directory under build/test and is taken down at the
end, whatever happens."""

import os

import pytest
from droverlab import guests
from droverlab.lab import Lab
from droverlab.paths import BUILD


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            if "integration" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="the lab has to run as root"))


@pytest.fixture(scope="module")
def make_lab(request):
    """make_lab(NAME, nodes=2, ...) brings a lab up; it goes down at the module's end."""
    labs = []

    def make(name, **options):
        # The tests of a module may be shared out among several workers.
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        lab = Lab(BUILD / "test" / f"{request.module.__name__}-{name}{worker}")
        lab.down()  # what a killed run may have left
        labs.append(lab)
        lab.up(**options)
        return lab

    yield make
    for lab in labs:
        lab.down()


@pytest.fixture(scope="session")
def tiny_guest():
    """The files of the tiny guest."""
    return guests.guest("tiny")
