"""Network and mount namespaces: made, entered and removed by name."""

import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

from .paths import LabError

NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command, **options):
    """Runs a command and returns what it wrote; LabError with its message when it fails."""
    result = subprocess.run([str(part) for part in command], text=True, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if result.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))}: "
                       f"{(result.stderr or result.stdout).strip()[-2000:]}")
    return result.stdout


def batch(namespace, *commands):
    """ip commands inside the namespace."""
    run("ip", "-n", namespace, "-batch", "-", input="\n".join(commands) + "\n")


def namespaces(prefix):
    """Names of the network namespaces that begin so."""
    if not NETNS.is_dir():
        return []
    return sorted(path.name for path in NETNS.iterdir() if path.name.startswith(prefix))


def add_namespace(name):
    run("ip", "netns", "add", name)
    # Nothing but what the lab sends is to be on its links.
    for scope in ("all", "default"):
        run("ip", "netns", "exec", name, "sh", "-c",
            f"echo 1 >/proc/sys/net/ipv6/conf/{scope}/disable_ipv6 2>/dev/null || true")
    batch(name, "link set lo up")


def pids(namespace):
    """Processes whose network namespace this is."""
    wanted = (NETNS / namespace).stat().st_ino
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}/ns/net").st_ino == wanted:
                    found.append(int(entry))
            except OSError:
                pass  # ended meanwhile, or a kernel thread
    return found


def _signal_all(found, number):
    for pid in found:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def wait_gone(found, timeout_s):
    """Waits for the processes to end; what is left of them."""
    deadline = time.monotonic() + timeout_s
    left = []
    for pid in found:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(max(0, (deadline - time.monotonic()) * 1000)):
            left.append(pid)
        os.close(fd)
    return left


def end_processes(namespace, grace_s=3):
    """Ends every process in the namespace: asked first, then killed."""
    for _ in range(10):
        found = pids(namespace)
        if not found:
            return
        _signal_all(found, signal.SIGTERM)
        left = wait_gone(found, grace_s)
        _signal_all(left, signal.SIGKILL)
        wait_gone(left, 5)
        grace_s = 0
    raise LabError(f"Processes {pids(namespace)} in {namespace} do not end.")


def remove_namespace(name):
    """Ends what runs in it and removes it, with all its interfaces."""
    end_processes(name)
    run("ip", "netns", "del", name)


def bridge(namespace, name, address=None):
    commands = [f"link add {name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                f"link set {name} up"]
    if address:
        # Who asks for one that has not booted yet asks again soon, not a second later; and as before
        # gives it up after three seconds.
        commands += [f"addr add {address} dev {name}", "ntable change name arp_cache "
                     f"dev {name} retrans 100 ucast_probes 30 mcast_probes 30"]
    batch(namespace, *commands)


def cable(namespace, port, other, other_port, other_bridge):
    """A link from `port` in one namespace to `other_bridge` in another."""
    batch(other, f"link add {other_port} type veth peer name {port} netns {namespace}",
          f"link set {other_port} master {other_bridge} up")
    batch(namespace, f"link set {port} up")


def shape(namespace, port, rate_mbit):
    """Limits what leaves through the port."""
    run("tc", "-n", namespace, "qdisc", "add", "dev", port, "root", "tbf", "rate",
        f"{rate_mbit}mbit", "burst", "256k", "latency", "50ms")


def hold_mounts(namespace, script):
    """Starts a process in the namespace that keeps a mount namespace of its own, prepared by a
    shell script; returns its process id once the script is through."""
    holder = subprocess.Popen(
        ["nsenter", f"--net={NETNS / namespace}", "unshare", "--mount", "sh", "-ec",
         script + "\necho ready\nexec sleep infinity >/dev/null 2>&1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, cwd="/")
    answer = holder.stdout.readline()
    if answer != "ready\n":
        message = holder.communicate()[1]
        raise LabError(f"Cannot prepare the mounts of {namespace}: {message.strip()}")
    holder.stdout.close()
    holder.stderr.close()
    return holder.pid


def is_in(pid, namespace):
    """Is this process one of the namespace's?"""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == (NETNS / namespace).stat().st_ino
    except OSError:
        return False


def is_ending(pid):
    """Has its first thread ended, and another not yet? Its files, and locks, may be open then."""
    try:
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False
    try:
        return threads > 1 and not os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return threads > 1


def _open(namespace):
    try:
        return open(NETNS / namespace, "rb")
    except FileNotFoundError:
        raise LabError("The lab is not up; lab/lab up makes it.") from None


def enter(namespace):
    """Moves this process, which must have one thread only, into the network namespace."""
    with _open(namespace) as there:
        if _libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise LabError(f"Cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")


def socket_in(namespace, kind):
    """An IPv4 socket that belongs to the namespace; the caller stays where it is."""
    with open("/proc/thread-self/ns/net", "rb") as home, _open(namespace) as there:
        if _libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise LabError(f"Cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")
        try:
            return socket.socket(socket.AF_INET, kind)
        finally:
            if _libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                os._exit(70)  # nothing after this would run where it thinks it does
