"""Where things are: the checkout, its build directory, and what the lab keeps in it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DROVER_BUILD", ROOT / "build")).resolve()
# Where Meson built; the same directory unless somebody keeps several builds.
PROGRAMS = Path(os.environ.get("DROVER_PROGRAMS", BUILD)).resolve()
CACHE = BUILD / "cache"
QEMU = BUILD / "qemu"
GUESTS = BUILD / "guests"


class LabError(Exception):
    """Something the person at the terminal has to know; its text is a whole sentence."""
