"""What a lab must not leave behind."""

from pathlib import Path

from droverlab import net
from droverlab.lab import SHARED


def traces(lab):
    """All of a lab that is on the machine: namespaces, directories, mounts, processes."""
    found = net.namespaces(lab.prefix)
    if lab.directory.exists():
        found.append(str(lab.directory))
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines()
              if lab.prefix in line or str(lab.directory) in line or "drover-lab" in line]
    if Path(SHARED).exists():
        found.append(SHARED)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue  # ended meanwhile
        if lab.prefix.encode() in words or str(lab.directory).encode() in words:
            found.append(f"{entry}: {words}")
    return found
