"""GlusterFS: one replicated volume of two bricks, mounted through FUSE."""

import os
import signal

from .server import ADDRESS, Server

VOLUME = "pool"
# A set of options that Debian's package brings; docs/storage.md says what is in it.
OPTIONS = "virt"


class GlusterFS(Server):
    """The first brick is the one without which nothing is written (quorum)."""

    name = "glusterfs"
    programs = ("glusterd", "gluster", "glusterfs", "mount.glusterfs")
    private = {"/var/lib/glusterd": ["groups"], "/var/log/glusterfs": []}

    def gluster(self, *words, check=True):
        return self.run("gluster", "--mode=script", *words, check=check, timeout=120)

    def start(self):
        self.daemon("glusterd", "--no-daemon", "-l", self.directory / "glusterd.log")
        self.wait(lambda: self.gluster("volume", "list", check=False).returncode == 0,
                  "glusterd does not answer")
        bricks = [f"{ADDRESS}:{self.data}/brick{i}" for i in range(2)]
        self.gluster("volume", "create", VOLUME, "replica", "2", *bricks, "force")
        self.gluster("volume", "set", VOLUME, "group", OPTIONS)
        self.gluster("volume", "start", VOLUME)

    def kill_brick(self, number):
        """Without a word to the others, as a server that dies. heal() starts it again."""
        for pid, words in self.processes().items():
            if "glusterfsd" in words[0] and f"{self.data}/brick{number}" in words:
                os.kill(pid, signal.SIGKILL)
                # glusterd takes one that nobody has buried yet for one that runs.
                self.wait(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "the brick is there")

    def heal(self):
        """Starts bricks that are down, and waits until both are what they were."""
        self.gluster("volume", "start", VOLUME, "force")
        self.wait(self._is_healed, "the bricks are not one")

    def _is_healed(self):
        self.gluster("volume", "heal", VOLUME, check=False)
        info = self.gluster("volume", "heal", VOLUME, "info", "summary", check=False)
        return info.stdout.count("Total Number of entries: 0") == 2

    def mount(self, node, directory):
        node.run("mount", "-n", "-t", "glusterfs", "-o", "log-file=/run/glusterfs.log",
                 f"{ADDRESS}:/{VOLUME}", directory)
