"""CephFS: one monitor, manager, OSD and metadata server; mounted by ceph-fuse."""

import uuid

from .server import ADDRESS, Server

FILES = "pool"
SIZE = 6 << 30  # of the OSD; its file has holes
CONF = """[global]
fsid = {fsid}
mon host = [v2:{address}:3300,v1:{address}:6789]
public addr = {address}
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = {data}/mon
mgr data = {data}/mgr
mds data = {data}/mds
osd data = {data}/osd
osd objectstore = bluestore
bluestore block size = {size}
osd memory target = 1073741824
run dir = /run/ceph
log file = {data}/$name.log
crash dir = {data}
[client]
admin socket =
log file = /run/ceph-fuse.log
"""


class CephFS(Server):
    """Without keys: nobody else is on its network."""

    name = "cephfs"
    programs = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph-mds", "ceph", "monmaptool", "ceph-fuse")

    @property
    def conf(self):
        return self.data / "ceph.conf"

    def ceph(self, *words, check=True):
        return self.run("ceph", "-c", self.conf, *words, check=check, timeout=120).stdout

    def start(self):
        fsid = str(uuid.uuid4())
        self.conf.write_text(CONF.format(fsid=fsid, address=ADDRESS, data=self.data, size=SIZE))
        for name in ("mon", "mgr", "mds", "osd"):
            (self.data / name).mkdir()
        self.run("mkdir", "/run/ceph")
        self._start_monitor(fsid)
        self.daemon("ceph-mgr", "-f", "-i", "a", "-c", self.conf)
        self._start_osd()
        for pool in ("meta", "data"):
            self.ceph("osd", "pool", "create", pool, "8")
        self.ceph("fs", "new", FILES, "meta", "data")
        self.daemon("ceph-mds", "-f", "-i", "a", "-c", self.conf)
        self.wait(lambda: "up:active" in self.ceph("mds", "stat"), "no active metadata server")

    def _start_monitor(self, fsid):
        monmap = self.data / "monmap"
        self.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a",
                 f"[v2:{ADDRESS}:3300,v1:{ADDRESS}:6789]", monmap)
        self.run("ceph-mon", "-i", "a", "-c", self.conf, "--mkfs", "--monmap", monmap)
        self.daemon("ceph-mon", "-f", "-i", "a", "-c", self.conf)
        self.ceph("mon", "stat")

    def _start_osd(self):
        osd = str(uuid.uuid4())
        number = self.ceph("osd", "new", osd).strip()
        self.run("ceph-osd", "-i", number, "-c", self.conf, "--mkfs", "--osd-uuid", osd)
        self.daemon("ceph-osd", "-f", "-i", number, "-c", self.conf)
        self.wait(lambda: "1 up" in self.ceph("osd", "stat"), "the OSD is not up")

    def mount(self, node, directory):
        node.run("ceph-fuse", "-c", self.conf, directory)
