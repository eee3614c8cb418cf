"""Memory that the machine has at hand.

Where the machine is a virtual one, its own host may take back what is free (free page reporting),
and the first touch of such a page takes 20 times as long as that of another. Which move pays for
that is chance: so free memory is touched right before each."""

import subprocess
import sys

MIB = 1 << 20
_TOUCH = """
import ctypes, mmap, sys
size = int(sys.argv[1])
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, size)
"""


def touch(mib):
    """Touches and frees as much, in a process of its own."""
    subprocess.run([sys.executable, "-c", _TOUCH, str(mib * MIB)], check=True)
