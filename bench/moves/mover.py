"""Both sides of drover-wire over loopback, for the benchmarks that need no hypervisor."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("DROVER_PROGRAMS", ROOT / "build")).resolve()
WIRE = PROGRAMS / "src" / "wire" / "drover-wire"


# What QEMU wants the files of a node to be called.
QEMU_NAMES = (("ca.crt", "ca-cert.pem"), ("{}.crt", "server-cert.pem"), ("{}.key", "server-key.pem"),
              ("{}.crt", "client-cert.pem"), ("{}.key", "client-key.pem"))


def make_certificates(folder, for_qemu=None):
    """ca.crt and for both nodes NAME.crt and NAME.key. for_qemu: the same of this node with the names
    that QEMU looks for."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True,
                       cwd=folder)

    for name in ("ca", "node1", "node2"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
    openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=bench", "-days", "2",
            "-out", "ca.crt", "-addext", "keyUsage=critical,keyCertSign")
    for name in ("node1", "node2"):
        (folder / "ext").write_text(f"subjectAltName=DNS:{name}\n")
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", "csr")
        openssl("x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", f"{name}.crt")
    for own, name in QEMU_NAMES if for_qemu else ():
        shutil.copy(folder / own.format(for_qemu), folder / name)


def _start(folder, verb, node, peer, *arguments, **options):
    return subprocess.Popen(
        [WIRE, verb, "--id", "bench", "--cert", f"{node}.crt", "--key", f"{node}.key", "--ca",
         "ca.crt", "--peer", peer, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True,
        **options)


def wait_for(process, event):
    """The status line that tells of this event."""
    for line in process.stdout:
        found = json.loads(line)
        if found["event"] == event:
            return found
    sys.exit(f"drover-wire ended with status {process.wait()}")


def start(folder, source, output, *options, send_only=(), **popen_options):
    """Both sides, connected: (sender, receiver). The options are for both, those of Popen for the
    sender."""
    receiver = _start(folder, "recv", "node2", "node1", "--output", output, "--listen",
                      "127.0.0.1:0", *options)
    port = wait_for(receiver, "listening")["port"]
    sender = _start(folder, "send", "node1", "node2", "--input", source, "--connect",
                    f"127.0.0.1:{port}", *options, *send_only, **popen_options)
    wait_for(sender, "connected")
    return sender, receiver


def end(*processes):
    """The "end" event of each."""
    ends = [wait_for(process, "end") for process in processes]
    for process in processes:
        process.stdout.close()
        process.wait()
    return ends
