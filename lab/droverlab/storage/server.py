"""What the servers of all file systems have in common."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from .. import net
from ..paths import LabError
from ..place import Place

ADDRESS = "10.78.0.250"
READY_S = 60


class Server(Place):
    """The place `storage` of a lab, on the network for migration. A kind of storage says what it
    needs of the machine, how it is started, and how a node mounts it."""

    name = ""  # of the kind, in tests and at the command line
    programs = ()  # that have to be there; tests/storage/packages.txt brings them
    devices = ("/dev/fuse",)
    own_kernels = False  # whether the nodes must have one each, for this machine's has no client
    # Directories of the machine that are the server's own here: what each has of the machine's.
    private = {}

    def __init__(self, lab):
        super().__init__(lab, "storage")
        self.data = self.directory / "data"

    @classmethod
    def missing(cls):
        """Why this machine cannot serve or mount it; None when it can."""
        for program in cls.programs:
            if not shutil.which(program):
                return f"{cls.name} needs {program}: lab/deps tests/storage/packages.txt"
        for device in cls.devices:
            if not os.path.exists(device):
                return f"{cls.name} needs {device}, which this kernel has not"
        return None

    def make(self):
        """Namespace and mounts, and what serves in them."""
        reason = self.missing()
        if reason:
            raise LabError(reason)
        net.add_namespace(self.namespace)
        net.cable(self.namespace, "st0", self.lab.link, "storage", "hub")
        net.batch(self.namespace, f"addr add {ADDRESS}/24 dev st0")
        self.data.mkdir(parents=True)
        script = ["mount -n --make-rprivate /", "mount -n -t tmpfs -o mode=0755,size=64m tmpfs /run"]
        for number, (path, kept) in enumerate(self.private.items()):
            own = self.directory / f"private{number}"
            own.mkdir()
            for name in kept:
                shutil.copytree(Path(path) / name, own / name)
            script.append(f"mount -n --bind '{own}' '{path}'")
        self.hold(script + self.mounts())
        self.start()

    def mounts(self):
        """Further lines of the script that makes the mounts."""
        return []

    def start(self):
        """Starts the server, and returns when it serves. What it starts ends with the namespace."""
        raise NotImplementedError

    def mount(self, node, directory):
        """Mounts it in a node."""
        raise NotImplementedError

    def daemon(self, *command):
        """Starts a daemon that does not go into the background; what it says is in its log."""
        log = self.directory / f"{Path(command[0]).name}.log"
        with open(log, "ab") as file:
            return self.popen(*command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                              start_new_session=True)

    def wait(self, condition, what, timeout_s=READY_S):
        """Waits until condition() is true."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"{what} within {timeout_s} s; logs are in {self.directory}")
            time.sleep(0.1)
