"""How guests of bhyve come up, over the shim of tests/bhyve-shim: firmware and its variables, bhyveload,
each kind of disk, and a guest's own restart: `make check-bhyve`."""

import shutil
import subprocess

import pytest

from bhyvelab import BhyveGuest, bhyve_lab
from droverlab.lab import SHARED
from droverlab.paths import GUESTS
from vms import drover, guest_client, wait_for

OVMF = "/usr/share/OVMF/OVMF_{}.fd"
STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
MEMORY = "256M"
DISK_MIB = 64


@pytest.fixture(scope="module")
def node(make_lab, tiny_guest):  # pylint: disable=unused-argument
    lab = bhyve_lab(make_lab, nodes=1)
    rom = lab.directory / "rom"
    rom.mkdir()
    shutil.copy(OVMF.format("CODE"), rom / "BHYVE_UEFI.fd")
    shutil.copy(OVMF.format("VARS"), rom / "BHYVE_UEFI_VARS.fd")
    return lab.nodes[0]


class DiskGuest(BhyveGuest):
    """A tiny guest that boots from its disk0, a FAT file system with `files` (path: what)."""

    def __init__(self, node, name, loader, files, *options):  # pylint: disable=super-init-not-called
        self.lab, self.name = node.lab, name
        self.address = {"uefi": "10.77.0.201", "load": "10.77.0.202"}[name]
        self.append = f"console=ttyS0 quiet drover.ip={self.address}/24"
        self.disk = node.lab.pool / "images" / f"{name}.raw"
        make_disk(self.disk, files(self.append, node.lab.directory))
        drover(node, "create", name, "--memory", MEMORY, "--hypervisor", "bhyve", "--loader", loader,
               "--nic", "bridge=br0", *options)
        self.start(node)

    def start(self, node):
        drover(node, "start", self.name)
        guest_client.wait_ready(self.lab.guests, self.address, 120)


def make_disk(path, files):
    with open(path, "wb") as disk:
        disk.truncate(DISK_MIB << 20)
    for command in (["mformat", "-i", path, "-F", "::"], ["mmd", "-i", path, "::/boot", "::/EFI", "::/EFI/BOOT"],
                    *(["mcopy", "-i", path, source, f"::/{name}"] for name, source in files.items())):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def efi_program(append, directory):
    """What firmware starts by itself: the kernel with all that it needs in one program."""
    (directory / "append").write_text(append)
    program, at, sections = directory / "BOOTX64.EFI", 0x2000000, []
    for section, file in (("cmdline", directory / "append"), ("initrd", GUESTS / "tiny.initrd"),
                          ("linux", GUESTS / "vmlinuz")):
        sections += ["--add-section", f".{section}={file}", "--change-section-vma", f".{section}={at:#x}"]
        at += (file.stat().st_size // 0x1000 + 1) * 0x1000
    subprocess.run(["objcopy", *sections, STUB, program], check=True)
    return {"EFI/BOOT/BOOTX64.EFI": program}


def boot_files(append, directory):
    (directory / "append").write_text(append)
    return {"boot/kernel": GUESTS / "vmlinuz", "boot/initrd": GUESTS / "tiny.initrd",
            "boot/append": directory / "append"}


def assert_records_are_kept(guest, device):
    guest.ask("disk", device, 50)
    wait_for(lambda: guest.ask("status")["disk_records"] > 20, "records on the disk")
    guest.ask("disk", device, 0)
    result = guest.ask("diskcheck", device)
    assert result["bad"] == 0 and result["records"] > 20, result


def test_firmware_boots_from_ahci_keeps_its_variables_and_nvme_keeps_records(node):
    images = f"{SHARED}/pool/images"
    guest = DiskGuest(node, "uefi", "uefi", efi_program, "--disk",
                      f"{images}/uefi.raw,format=raw,model=ahci-hd", "--disk",
                      "data.raw,format=raw,model=nvme,size=16M")
    guest.ask("fill", 8, "text")
    guest.assert_memory_is_right()
    assert_records_are_kept(guest, "/dev/nvme0n1")
    nvram = node.lab.pool / "vms" / guest.name / "nvram.fd"
    template = node.lab.directory / "rom" / "BHYVE_UEFI_VARS.fd"
    assert nvram.stat().st_size == template.stat().st_size
    variables = nvram.read_bytes()
    assert variables != template.read_bytes(), "the firmware has written its variables"
    _, (answer,) = drover(node, "stop", guest.name)
    assert answer["forced"] is False
    assert nvram.read_bytes() == variables
    drover(node, "rm", guest.name, "--yes")


def test_bhyveload_boots_and_a_guest_that_restarts_is_started_again(node):
    guest = DiskGuest(node, "load", "bhyveload", boot_files, "--disk",
                      f"{SHARED}/pool/images/load.raw,format=raw,model=nvme")
    guest.ask("fill", 8, "text")
    before, (info,) = guest.pids(node), drover(node, "show", guest.name)[1]
    console = node.popen("timeout", "60", "drover", "console", guest.name, stdin=subprocess.PIPE,
                         stdout=subprocess.DEVNULL, text=True)
    console.stdin.write("\nreboot -f\n")
    console.stdin.flush()
    wait_for(lambda: guest.pids(node) not in ([], before), "another bhyve", 60)
    guest_client.wait_ready(node.lab.guests, guest.address, 120)
    console.kill()
    console.wait()
    # It has booted: its memory is new, and the VM has never been nobody's.
    assert guest.ask("check")["pages"] == 0
    _, (after,) = drover(node, "show", guest.name)
    assert (after["state"], after["node"], after["epoch"]) == ("running", node.name, info["epoch"])
    _, (answer,) = drover(node, "stop", guest.name)
    assert answer["forced"] is False
    drover(node, "rm", guest.name, "--yes")
