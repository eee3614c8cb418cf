"""The lab: nodes, each with its own network and mount namespace, and the two networks between them.

  namespace guests   bridge `hub`, 10.77.0.1: the guests' network and its outside client
  namespace link     bridge `hub`: the network for migration
  namespace storage  10.78.0.250 on link/hub, what serves the pool, where the pool is no directory
                     of this machine (droverlab/storage)
  namespace nodeN    bridge br0 with a port to guests/hub, for the taps of VMs;
                     mig0, 10.78.0.N, to link/hub, shaped when a rate is given

A node sees its own /run, and in it:
  /run/drover-lab/pool     the pool, one for all
  /run/drover-lab/qemu     build/qemu     /run/drover-lab/guests   build/guests
  /run/drover-lab/bin      drover, droverd, drover-wire and the b... names
  /run/drover-lab/state    this node's state directory
  /run/drover-lab/drover.conf
so that a user with no rights in the checkout's parents reaches them, and the machine sees nothing.

The names of the namespaces carry an id made from the lab's directory: several labs can be up.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from . import net
from .paths import BUILD, GUESTS, PROGRAMS, QEMU, LabError
from .place import Place

DEFAULT_QEMU = "10.0"
# Numeric users that need not exist on the machine.
VM_USER = 64055
WIRE_USER = 64056
SHARED = "/run/drover-lab"
SOCKET = "/run/drover/droverd.sock"
LINKS = ("bmigrate", "bcreate", "bstart", "bstop", "bls", "bremove", "bset", "brename", "bconsole",
         "bsuspend")
BUILT_IN = {"drover": "src/cli", "droverd": "src/daemon", "drover-wire": "src/wire"}
MAX_NODES = 200
DAEMON_READY_S = 60


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Node(Place):
    """One node. Its name is nodeN, N from 1."""

    search = f"{SHARED}/bin:"

    def __init__(self, lab, number):
        super().__init__(lab, f"node{number}")
        self.number = number
        self.address = f"10.78.0.{number}"
        self.log = self.directory / "droverd.log"
        self._clients = self.directory / "clients"

    # --- namespaces ---

    def make(self, rate_mbit, server):
        net.add_namespace(self.namespace)
        net.bridge(self.namespace, "br0")
        net.cable(self.namespace, "up0", self.lab.guests, self.name, "hub")
        net.cable(self.namespace, "mig0", self.lab.link, self.name, "hub")
        net.batch(self.namespace, "link set up0 master br0",
                  f"addr add {self.address}/24 dev mig0")
        if rate_mbit:
            net.shape(self.namespace, "mig0", rate_mbit)
        (self.directory / "state").mkdir(parents=True)
        self._make_mounts([] if server else [("pool", self.lab.pool)])
        if server:
            server.mount(self, f"{SHARED}/pool")
            # A client of the file system may be a process.
            self._clients.write_text("\n".join(map(str, self.processes())))

    def _make_mounts(self, further):
        binds = [("qemu", QEMU), ("guests", GUESTS), ("build", PROGRAMS),
                 ("state", self.directory / "state"), *further]
        script = ["mount -n --make-rprivate /", "mount -n -t sysfs sysfs /sys",
                  "mount -n -t tmpfs -o mode=0755,size=64m tmpfs /run",
                  f"mkdir -p {SHARED}/bin {SHARED}/pool /run/drover"]
        for name, source in binds:
            script += [f"mkdir -p {SHARED}/{name}", f"mount -n --bind '{source}' {SHARED}/{name}"]
        for program, folder in BUILT_IN.items():
            built = program if (PROGRAMS / program).exists() else f"{folder}/{program}"
            script.append(f"ln -s ../build/{built} {SHARED}/bin/{program}")
        script += [f"ln -s drover {SHARED}/bin/{link}" for link in LINKS]
        self.hold(script)

    def strangers(self):
        """Process ids of all that is neither droverd nor the lab's own."""
        clients = self._clients.read_text().split() if self._clients.exists() else []
        return self.processes().keys() - {self.holder, self.daemon_pid, *map(int, clients)}

    def wire_bytes(self):
        """Bytes that have left through the migration link, with all headers."""
        shown = self.run("ip", "-s", "-j", "link", "show", "mig0").stdout
        return json.loads(shown)[0]["stats64"]["tx"]["bytes"]

    # --- droverd ---

    def write_conf(self, qemu):
        data = f"{SHARED}/qemu/{qemu}"
        self.path(f"{SHARED}/drover.conf").write_text(
            f"[node]\nstate={SHARED}/state\nrun=/run/drover\nlisten={self.address}:7780\n"
            f"address={self.address}\nvm_user={VM_USER}:{VM_USER}\n"
            f"allow_paths={SHARED}/guests\n"
            f"wire_user={WIRE_USER}:{WIRE_USER}\n\n"
            f"[qemu]\nbinary={data}/bin/qemu-system-x86_64\nimg={data}/bin/qemu-img\n"
            f"data={data}/data\n\n"
            f"[wire]\nbinary={SHARED}/bin/drover-wire\n\n[task]\nbinary={SHARED}/bin/drover\n")

    @property
    def daemon_pid(self):
        """droverd's process id, None when it does not run."""
        file = self.directory / "droverd.pid"
        pid = int(file.read_text()) if file.exists() else 0
        return pid if pid and (net.is_in(pid, self.namespace) or net.is_ending(pid)) else None

    def start_daemon(self, *, under=(), **environment):
        """Starts droverd and waits until it serves: all of it, where it is in a cluster. `under` is a
        command that becomes it."""
        with open(self.log, "ab") as log:
            daemon = self.popen(*under, "droverd", "--config", f"{SHARED}/drover.conf",
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                start_new_session=True, env={**os.environ, **environment})
        (self.directory / "droverd.pid").write_text(f"{daemon.pid}\n")
        in_cluster = self.path(f"{SHARED}/state/node.conf").exists()
        deadline = time.monotonic() + DAEMON_READY_S
        while True:
            try:
                left_s = max(0.1, deadline - time.monotonic())
                _, status = self.api("GET", "/v1/status", timeout=left_s)
                if status["ready"] or not in_cluster:
                    return daemon
                problem = f"is not ready: {status['problems']}"
            except OSError as error:
                problem = f"does not answer: {error}"
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"droverd on {self.name} {problem}; its log ends with:\n"
                               f"{self.log_tail()}")
            time.sleep(0.02)

    def stop_daemon(self, number=signal.SIGTERM, timeout_s=60):
        """Sends droverd the signal and waits for its end."""
        pid = self.daemon_pid
        if pid is None:
            return
        os.kill(pid, number)
        if net.wait_gone([pid], timeout_s):
            raise LabError(f"droverd on {self.name} does not stop.")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def log_tail(self, lines=20):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def api(self, method, path, body=None, timeout=30):
        """A request to droverd's Unix socket: (HTTP status, JSON or text)."""
        connection = _UnixConnection(str(self.path(SOCKET)), timeout)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body),
                               headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise ConnectionError(f"no answer from droverd: {error!r}") from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def drover(self, *arguments, timeout=60, check=True):
        """Runs drover here with --json; returns the last JSON document that it printed."""
        result = self.run("drover", *arguments, "--json", timeout=timeout, check=check)
        try:
            return json.loads(result.stdout)
        except ValueError:
            lines = [line for line in result.stdout.splitlines() if line.strip()]
            return json.loads(lines[-1]) if lines else None


class Lab:
    """A lab in a directory, by default build/lab, or $DROVER_LAB."""

    def __init__(self, directory=None):
        self.directory = Path(directory or os.environ.get("DROVER_LAB", BUILD / "lab")).resolve()
        self.id = hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]
        self.prefix = f"drover-{self.id}-"
        self.guests = self.prefix + "guests"
        self.link = self.prefix + "link"
        self.pool = self.directory / "pool"
        self.own_kernels = self.directory / "own-kernels"
        self.server = None  # what serves the pool, in the process that has made the lab

    @property
    def nodes(self):
        """The nodes that are there."""
        numbers = sorted(int(name[len(self.prefix) + 4:]) for name in net.namespaces(self.prefix)
                         if name.startswith(self.prefix + "node"))
        return [self.node_kind(self, number) for number in numbers]

    @property
    def node_kind(self):
        """The nodes' class."""
        if not self.own_kernels.exists():
            return Node
        from .uml import UmlNode  # pylint: disable=import-outside-toplevel,cyclic-import
        return UmlNode

    def node(self, name):
        for node in self.nodes:
            if name in (node.name, str(node.number)):
                return node
        there = ", ".join(node.name for node in self.nodes)
        raise LabError(f"There is no node {name} in this lab; there are: "
                       f"{there or 'none; lab/lab up makes them'}.")

    def up(self, nodes=2, rate_mbit=None, qemu=None, bare=False, pool_mib=None, storage=None):
        """Makes the lab. qemu: {"node2": "7.2"} for nodes with another version than 10.0. bare:
        namespaces only, no droverd. pool_mib: the pool is an ext4 of its own, of that size.
        storage: the pool is on that kind of it (droverlab.storage). What an interrupted or failed
        call has made is removed."""
        if not 1 <= nodes <= MAX_NODES:
            raise LabError(f"A lab has 1 to {MAX_NODES} nodes.")
        if net.namespaces(self.prefix) or self.directory.exists():
            raise LabError(f"The lab in {self.directory} is up already, or was not taken down; "
                           "lab/lab down does that.")
        versions = {f"node{number}": DEFAULT_QEMU for number in range(1, nodes + 1)}
        for name, version in (qemu or {}).items():
            if name not in versions:
                raise LabError(f"--qemu names {name}, which is none of the {nodes} nodes.")
            versions[name] = version
        for version in set(versions.values()):
            if not (QEMU / version).is_dir():
                raise LabError(f"There is no QEMU {version} in {QEMU}; "
                               f"lab/qemu {version} fetches it.")
        try:
            self._make(versions, rate_mbit, bare, pool_mib, storage)
        except BaseException:
            handlers = [(number, signal.signal(number, signal.SIG_IGN))
                        for number in (signal.SIGINT, signal.SIGTERM)]
            self.down()
            for number, handler in handlers:
                signal.signal(number, handler)
            raise

    def _mount_pool(self, pool_mib):
        """Nobody has a reserve in it: full is full for root, too."""
        image = self.directory / "pool.ext4"
        with open(image, "wb") as file:
            file.truncate(pool_mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        subprocess.run(["mount", "-n", "-o", "loop", image, self.pool], check=True)
        (self.pool / "lost+found").rmdir()

    def _make(self, versions, rate_mbit, bare, pool_mib, storage):
        GUESTS.mkdir(parents=True, exist_ok=True)
        self.pool.mkdir(parents=True)
        if pool_mib:
            self._mount_pool(pool_mib)
        for namespace, address in ((self.guests, "10.77.0.1/24"), (self.link, None)):
            net.add_namespace(namespace)
            net.bridge(namespace, "hub", address)
        if storage:
            self.server = storage(self)
            self.server.make()
            if storage.own_kernels:
                self.own_kernels.touch()
        nodes = [self.node_kind(self, number) for number in range(1, len(versions) + 1)]
        for node in nodes:
            node.make(rate_mbit, self.server)
            node.write_conf(versions[node.name])
        if bare:
            return
        for node in nodes:
            node.start_daemon()
        self._form_cluster(nodes)

    def _form_cluster(self, nodes):
        first = nodes[0]
        first.run("drover", "init", "--pool", f"{SHARED}/pool", "--name", first.name, "--address",
                  first.address)
        for node in nodes[1:]:
            token = first.drover("token")["token"]
            node.run("drover", "join", first.address, "--token", token, "--name", node.name,
                     "--pool", f"{SHARED}/pool", "--own-address", node.address)

    def down(self):
        """Ends everything that runs in the lab, and removes it with its directory."""
        for namespace in net.namespaces(self.prefix):
            net.remove_namespace(namespace)
        if self.pool.is_mount():
            subprocess.run(["umount", "-n", self.pool], check=True)
        if (self.directory / "nodes").is_dir() or self.pool.is_dir():
            shutil.rmtree(self.directory)

    def add_image(self, file):
        """Puts a guest's image into the pool, as images/NAME; free of cost on one file system."""
        image = self.pool / "images" / file.name
        image.parent.mkdir(exist_ok=True)
        try:
            os.link(file, image)
        except OSError:
            shutil.copyfile(file, image)

    def status(self):
        """The lab as a JSON object."""
        nodes = []
        for node in self.nodes:
            nodes.append({"name": node.name, "address": node.address, "namespace": node.namespace,
                          "droverd": node.daemon_pid, "log": str(node.log),
                          "processes": len(net.pids(node.namespace))})
        return {"directory": str(self.directory), "id": self.id, "nodes": nodes}

    def guest_address(self, vm):
        """The address on the guests' network of a VM of the pool, from drover.ip= in its
        definition; an address stands for itself."""
        if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", vm):
            return vm
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", vm):
            raise LabError(f"{vm!r} is no name of a VM, and no address.")
        conf = self.pool / "vms" / vm / "vm.conf"
        text = conf.read_text() if conf.exists() else ""
        match = re.search(r"drover\.ip=([0-9.]+)", text)
        if not match:
            raise LabError(f"There is no VM {vm} with drover.ip= in its kernel's command line in "
                           "this lab; give the address itself.")
        return match.group(1)
