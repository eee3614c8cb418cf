"""NFS: nfs-ganesha serves a directory; the nodes mount it with a kernel of their own, for this
machine's may have no client."""

import subprocess

from .server import ADDRESS, Server

CONF = """NFS_CORE_PARAM {{
	Protocols = 3, 4;
	Bind_addr = {address};
	NFS_Port = 2049;
	MNT_Port = 20048;
	NLM_Port = 32803;
	Enable_NLM = true;
	Enable_RQUOTA = false;
	mount_path_pseudo = true;
}}
NFSv4 {{
	Only_Numeric_Owners = true;
	Graceless = true;
	RecoveryBackend = fs;
}}
EXPORT {{
	Export_Id = 1;
	Path = /run/export;
	Pseudo = /pool;
	Protocols = 3, 4;
	Transports = TCP;
	Access_Type = RW;
	Squash = No_Root_Squash;
	SecType = sys;
	FSAL {{ Name = VFS; }}
}}
"""
SIZE_MIB = 2048
STATD = "/var/lib/nfs"


class NFS(Server):
    """What v3 and v4 have in common. What is exported is an ext4 of its own."""

    programs = ("ganesha.nfsd", "rpcbind", "rpc.statd", "mount.nfs", "modprobe", "linux.uml")
    devices = ("/dev/net/tun",)
    private = {STATD: []}
    own_kernels = True
    version = 0

    def mounts(self):
        image = self.directory / "export.ext4"
        with open(image, "wb") as file:
            file.truncate(SIZE_MIB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        return ["mkdir /run/export", f"mount -n -o loop '{image}' /run/export",
                *statd_directories()]

    def start(self):
        conf = self.directory / "ganesha.conf"
        conf.write_text(CONF.format(address=ADDRESS))
        start_rpc(self)
        self.daemon("ganesha.nfsd", "-F", "-f", conf, "-L", self.directory / "ganesha.log",
                    "-p", "/run/ganesha.pid", "-N", "NIV_EVENT")
        self.wait(lambda: self.run("rpcinfo", "-n", "2049", "-t", ADDRESS, "nfs", check=False)
                  .returncode == 0, "ganesha.nfsd does not serve")

    def mount(self, node, directory):
        if self.version == 3:
            start_rpc(node)
        self.mount_with(node, directory, "hard")

    def mount_with(self, node, directory, options):
        """Mounts it with these options besides its own."""
        node.run("mount", "-t", "nfs", "-o", f"vers={self.version},proto=tcp,{options}",
                 f"{ADDRESS}:/pool", directory)


def statd_directories():
    """Lines of a script that make what rpc.statd and rpcbind keep, below private directories."""
    return [f"mkdir -p {STATD}/sm {STATD}/sm.bak {STATD}/ganesha /run/rpcbind",
            f"chown statd {STATD} {STATD}/sm {STATD}/sm.bak", "chown _rpc /run/rpcbind"]


def start_rpc(place):
    """The programs that locks of NFS v3 need, on both sides."""
    place.run("sh", "-ec", "rpcbind -w; rpc.statd")


class NFS3(NFS):
    name = "nfs3"
    version = 3


class NFS4(NFS):
    name = "nfs4"
    version = "4.2"
