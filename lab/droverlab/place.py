"""A place of a lab: a network namespace with mounts of its own, in which commands are run."""

import contextlib
import os
import subprocess
from pathlib import Path

from . import net
from .paths import LabError


class Place:
    """Its lab, its name, its namespace and its directory are set by whoever makes it."""

    search = ""  # directories that commands are looked for in first, each with a colon behind it

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.namespace = f"{lab.prefix}{name}"
        self.directory = lab.directory / "nodes" / name

    def hold(self, script):
        """Makes the mounts by a shell script; they are there while the namespace is."""
        pid = net.hold_mounts(self.namespace, "\n".join(script))
        (self.directory / "holder.pid").write_text(f"{pid}\n")

    def env(self):
        """The beginning of an argument vector that finds the place's own commands first."""
        return ["env", f"PATH={self.search}{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"]

    @property
    def holder(self):
        """The process that keeps the mount namespace."""
        file = self.directory / "holder.pid"
        pid = int(file.read_text()) if file.exists() else 0
        if not pid or not net.is_in(pid, self.namespace):
            raise LabError(f"{self.name} is not up; lab/lab up makes the lab.")
        return pid

    def path(self, inside):
        """A path of this place, as seen from outside of it."""
        return Path(f"/proc/{self.holder}/root") / str(inside).lstrip("/")

    def command(self, *command):
        """The argument vector that runs `command` in this place."""
        return ["nsenter", "--target", str(self.holder), "--net", "--mount",
                f"--wdns={os.getcwd()}", *self.env(), *map(str, command)]

    def run(self, *command, timeout=60, check=True, **options):
        """Runs a command here to its end; returns a CompletedProcess with text."""
        result = subprocess.run(self.command(*command), text=True, check=False, timeout=timeout,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip()[-2000:]
            raise LabError(f"{self.name}: {' '.join(map(str, command))} ended with "
                           f"{result.returncode}: {said}")
        return result

    def popen(self, *command, **options):
        """Starts a command here."""
        return subprocess.Popen(self.command(*command), **options)

    def processes(self):
        """Argument vectors of what runs here, by process id."""
        found = {}
        for pid in net.pids(self.namespace):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
                found[pid] = words[:-1] or [""]
        return found
