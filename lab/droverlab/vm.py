"""A VM that drover runs in the lab, with the test program in it and a client outside."""

import json
import signal
import subprocess
import time

from . import guest_client, guests
from .paths import ROOT, LabError


class Probe:
    """The outside client, as a process of its own. In a `with` block: ended at the end of it."""

    def __init__(self, lab, address):
        self.process = subprocess.Popen(
            [ROOT / "lab" / "lab", "--lab", lab.directory, "probe", address], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True)
        if self.process.stderr.readline() != "probing\n":
            raise LabError(f"The probe does not start: {self.process.communicate()[1].strip()}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def window(self):
        """What was seen since the last call; the connection is held on."""
        self.process.send_signal(signal.SIGUSR1)
        return json.loads(self.process.stdout.readline())

    def end(self):
        """What was seen in the last window, the connection's last answer awaited."""
        self.process.send_signal(signal.SIGTERM)
        return json.loads(self.process.communicate(timeout=30)[0])


class VM:
    """A VM of the lab's cluster; its guest has the address 10.77.0.NUMBER."""

    def __init__(self, lab, name, number):
        self.lab, self.name = lab, name
        self.address = f"10.77.0.{number}"

    def create(self, node, *options, memory="256M", guest="tiny"):
        """drover create on a node. The debian guest's image has to be its first disk."""
        kernel, initrd, append = guests.boot(guest, self.address)
        node.run("drover", "create", self.name, "--memory", memory, "--kernel", kernel,
                 "--initrd", initrd, "--append", append, "--nic", "bridge=br0", *options)

    def start(self, node, timeout=60):
        """Starts it and waits for its guest; returns the seconds until that answered."""
        node.run("drover", "start", self.name)
        return guest_client.wait_ready(self.lab.guests, self.address, timeout)

    def ask(self, *command, timeout=120):
        """A command to the test program; its answer."""
        answer = guest_client.ask(self.lab.guests, self.address, *command, timeout=timeout)
        if "error" in answer:
            raise LabError(f"{self.name}'s test program, {' '.join(map(str, command))}: "
                           f"{answer['error']}")
        return answer

    def probe(self):
        return Probe(self.lab, self.address)

    def move(self, source, destination, *options, verb="migrate"):
        """Moves it with one command; the command's last JSON object, with `seconds` it took and
        `wire` bytes that left the source through the link."""
        if verb == "bmigrate":
            command = ["bmigrate", f"jname={self.name}", f"node={destination.name}"]
        else:
            command = ["drover", verb, self.name, destination.name]
        before, start = source.wire_bytes(), time.monotonic()
        run = source.run(*command, *options, "--json", timeout=600)
        seconds = time.monotonic() - start
        result = json.loads(run.stdout.strip().splitlines()[-1])
        return {**result, "seconds": seconds, "wire": source.wire_bytes() - before}
