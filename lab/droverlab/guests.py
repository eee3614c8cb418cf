"""The lab's guests, built from Debian packages and kept in build/guests.

tiny    vmlinuz + tiny.initrd: Debian's cloud kernel, busybox and the test program.
debian  debian.qcow2: an ordinary installation of Debian 12 (every package of priority important or
        higher, its cloud kernel, the initramfs that the installation made) with OpenSSH, nginx,
        redis and postgresql, and the test program; debian.vmlinuz + debian.initrd: its kernel and
        initramfs, copied from its /boot.

boot() tells how to start one.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from .debs import Apt, codename, sources, unpack
from .lab import SHARED
from .paths import CACHE, GUESTS, QEMU, ROOT, LabError

SOURCES = ROOT / "lab" / "guest"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
# What a guest's devices need: PCI transport, disk, network, power button.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "button", "evdev")
# The installer adds dbus and libpam-systemd, too: without them nothing heeds the power button.
DEBIAN_PACKAGES = (KERNEL_PACKAGE, "dbus", "libpam-systemd", "openssh-server", "nginx",
                   "redis-server", "postgresql")
DEBIAN_SIZE = "3G"
CFLAGS = ("-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-Wall", "-Wextra",
          "-Wshadow", "-Werror", "-Wno-missing-field-initializers")


def _run(*command, **options):
    run = subprocess.run([str(part) for part in command], text=True, check=False,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if run.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))} failed: {run.stdout.strip()[-2000:]}")
    return run.stdout


def _stamp(*files, extra=""):
    """Changes whenever one of the files does."""
    digest = hashlib.sha256(extra.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _recipe(name):
    """The stamp of what the guest is made from."""
    script = "init" if name == "tiny" else "customize"
    return _stamp(*sorted(SOURCES.glob("*.[ch]")), SOURCES / script, Path(__file__), extra=name)


def test_program():
    """build/guests/drover-guest, static."""
    GUESTS.mkdir(parents=True, exist_ok=True)
    program, stamp = GUESTS / "drover-guest", GUESTS / "drover-guest.stamp"
    files = sorted(SOURCES.glob("*.[ch]"))
    wanted = _stamp(*files, extra=" ".join(CFLAGS))
    if not (program.exists() and stamp.exists() and stamp.read_text() == wanted):
        _run("gcc", *CFLAGS, *(file for file in files if file.suffix == ".c"), "-o", program)
        stamp.write_text(wanted)
    return program


def _module_order(tree):
    """Paths of MODULES and of all that they need, in an order in which they can be loaded."""
    files = {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}
    order = []

    def add(name):
        if name not in files:
            return  # built into the kernel
        for field in files[name].read_bytes().split(b"\0"):
            if field.startswith(b"depends=") and field != b"depends=":
                for other in field[8:].decode().split(","):
                    add(other.replace("-", "_"))
        if files[name] not in order:
            order.append(files[name])

    for name in MODULES:
        add(name)
    return order


def _kernel():
    """The unpacked kernel package."""
    with Apt() as apt:
        apt.update()
        meta = apt.newest(KERNEL_PACKAGE)
        package = next(name for name in apt.depends(KERNEL_PACKAGE, meta)
                       if name.startswith("linux-image-"))
        deb = apt.fetch(package, apt.newest(package))
    tree = GUESTS / "kernel"
    shutil.rmtree(tree, ignore_errors=True)
    unpack(deb, tree)
    return tree


def _initrd(kernel, out):
    tree = GUESTS / "initrd"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "bin").mkdir(parents=True)
    (tree / "lib/modules").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    shutil.copy(test_program(), tree / "bin/drover-guest")
    shutil.copy(SOURCES / "init", tree / "init")
    (tree / "init").chmod(0o755)
    modules = _module_order(kernel)
    for module in modules:
        shutil.copy(module, tree / "lib/modules" / module.name)
    (tree / "lib/modules/order").write_text("".join(m.name + "\n" for m in modules))
    names = "\0".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    # Not compressed: unpacking costs an emulated CPU more than reading.
    with open(out, "wb") as file:
        subprocess.run(["cpio", "-0", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=tree,
                       input=names.encode(), stdout=file, check=True)
    shutil.rmtree(tree)


def _tiny():
    kernel = _kernel()
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), GUESTS / "vmlinuz.part")
    _initrd(kernel, GUESTS / "tiny.part")
    shutil.rmtree(kernel)
    (GUESTS / "vmlinuz.part").rename(GUESTS / "vmlinuz")
    (GUESTS / "tiny.part").rename(GUESTS / "tiny.initrd")


def _debian_tree(tree):
    """The installation, in a directory. The packages that it needs stay in build/cache."""
    source, cached, used = GUESTS / "debian.sources", CACHE / "guest", CACHE / "guest.part"
    source.write_text(sources(endings=("", "-updates")))
    for directory in (tree, used):
        shutil.rmtree(directory, ignore_errors=True)
    for directory in (cached, used):
        directory.mkdir(parents=True, exist_ok=True)
    archives = "/var/cache/apt/archives"
    _run("mmdebstrap", "--quiet", "--variant=important", "--mode=root", "--format=directory",
         f"--include={','.join(DEBIAN_PACKAGES)}", '--aptopt=Acquire::Languages "none"',
         # Or it would delete what is there before it downloads, and what it has unpacked.
         "--skip=download/empty", "--skip=essential/unlink",
         f'--setup-hook=mkdir -p "$1{archives}"',
         f"--setup-hook=sync-in {shlex.quote(str(cached))} {archives}",
         f"--customize-hook={SOURCES}/customize",
         f"--customize-hook=sync-out {archives} {shlex.quote(str(used))}",
         codename(), tree, source, env={**os.environ, "DROVER_GUEST": str(test_program())})
    shutil.rmtree(cached)
    used.rename(cached)


def _debian():
    tree, raw, image = GUESTS / "debian.tree", GUESTS / "debian.raw", GUESTS / "debian.qcow2"
    _debian_tree(tree)
    parts = {}
    for name, file in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        parts[GUESTS / f"debian.{name}"] = part = GUESTS / f"debian.{name}.part"
        shutil.copyfile(next((tree / "boot").glob(file)), part)
    raw.unlink(missing_ok=True)
    _run("mke2fs", "-q", "-t", "ext4", "-d", tree, raw, DEBIAN_SIZE)
    shutil.rmtree(tree)
    # Not compressed: drover compares a guest's pages with the blocks of its base image.
    parts[image] = Path(f"{image}.part")
    _run(QEMU / "10.0/bin/qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, parts[image])
    raw.unlink()
    for file, part in parts.items():
        part.rename(file)


# The kernel and the initramfs are the last two.
GUEST_FILES = {"tiny": ("vmlinuz", "tiny.initrd"),
               "debian": ("debian.qcow2", "debian.vmlinuz", "debian.initrd")}


def boot(name, address):
    """(kernel, initrd, kernel's command line) of a guest with this address on the guests' network;
    paths as a node sees them. The debian guest's first disk has to be its image."""
    kernel, initrd = GUEST_FILES[name][-2:]
    append = f"console=ttyS0 quiet drover.ip={address}/24"
    if name == "debian":
        append = f"root=/dev/vda ro {append}"
    return f"{SHARED}/guests/{kernel}", f"{SHARED}/guests/{initrd}", append


def guest(name):
    """Builds the guest unless it is there, and returns the paths of its files."""
    if name not in GUEST_FILES:
        raise LabError(f"There is no guest {name}; there are: {', '.join(GUEST_FILES)}.")
    if name == "debian" and not (QEMU / "10.0").is_dir():
        raise LabError("The debian guest's image is made with qemu-img; run lab/qemu first.")
    GUESTS.mkdir(parents=True, exist_ok=True)
    with open(GUESTS / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = [GUESTS / file for file in GUEST_FILES[name]]
        stamp, wanted = GUESTS / f"{name}.stamp", _recipe(name)
        current = stamp.exists() and stamp.read_text() == wanted
        if not current or not all(file.exists() for file in files):
            print(f"building guest {name}", flush=True)
            {"tiny": _tiny, "debian": _debian}[name]()
            stamp.write_text(wanted)
    return files
