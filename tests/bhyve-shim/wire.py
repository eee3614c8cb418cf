"""bhyve's migration on the wire: usr.sbin/bhyve/migration.c of the FreeBSD-UPB tree, both sides.

Integers are the machine's (amd64: little-endian). What that code does wrong is kept: the end of a
connection is no error of a read, which then leaves what was in its buffer.
"""

import os
import platform
import signal
import socket
import struct

PAGE = 4096
ROUNDS = 4
OK, NOT_OK = 0, 1
SPECS, KERNEL, DEVICE = 1, 4, 5
HEADER = struct.Struct("<QII64s")
SYSTEM = struct.Struct("<256s256sQ")
CHUNK = 1 << 20


class Refused(Exception):
    """The other side does not want it, or it is not what was expected."""


def send(sock, data):
    """To a connection that is closed: nobody ignores SIGPIPE."""
    try:
        sock.sendall(data)
    except OSError as error:
        print(f"migration_transfer_data: {error}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def receive(sock, size, old=b""):
    """`size` bytes; where the connection ends before, the rest of `old`, or zeros."""
    parts, left = [], size
    while left:
        data = sock.recv(min(left, CHUNK))
        if not data:
            done = size - left
            return b"".join(parts) + old[done:].ljust(left, b"\0")[:left]
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def specs():
    model = os.environ.get("BHYVE_SHIM_MODEL", "shim")
    return SYSTEM.pack(b"amd64" if platform.machine() == "x86_64" else b"other", model.encode(), PAGE)


def header(kind, size, request=0, name=""):
    return HEADER.pack(size, kind, request, name.encode())


class Source:
    """Sends a guest. `guest` has memory (a mutable buffer), pause(), resume(), structures()."""

    def __init__(self, sock, guest):
        self.sock, self.guest = sock, guest
        self.sent = bytearray()

    def check_specs(self):
        ours = specs()
        send(self.sock, header(SPECS, len(ours)) + ours)
        if struct.unpack("<Q", receive(self.sock, 8))[0] == NOT_OK:
            raise Refused("Error while checking system requirements")

    def send_round(self, dirty):
        """`dirty` are the first bytes of chunks, each with a list of its pages to be sent."""
        memory = self.guest.memory
        pages = bytearray(len(memory) // PAGE)
        for at in dirty:
            pages[at // PAGE] = 1
        send(self.sock, pages)
        for at in dirty:
            data = memory[at:at + PAGE]
            self.sent[at:at + PAGE] = data
            send(self.sock, data)

    def send_all(self):
        memory = self.guest.memory
        send(self.sock, b"\1" * (len(memory) // PAGE))
        for at in range(0, len(memory), CHUNK):
            data = memory[at:at + CHUNK]
            self.sent += data
            send(self.sock, data)

    def dirty(self):
        memory, found = self.guest.memory, []
        for at in range(0, len(memory), CHUNK):
            now = memory[at:at + CHUNK]
            if now == self.sent[at:at + CHUNK]:
                continue
            for page in range(0, len(now), PAGE):
                if now[page:page + PAGE] != self.sent[at + page:at + page + PAGE]:
                    found.append(at + page)
        return found

    def send_live(self):
        send(self.sock, struct.pack("<B", ROUNDS))
        self.send_all()
        for i in range(1, ROUNDS + 1):
            if i == ROUNDS:
                self.guest.pause()
            self.send_round(self.dirty())

    def send_warm(self):
        memory = self.guest.memory
        send(self.sock, struct.pack("<QQ", len(memory), 0))
        if struct.unpack("<i", receive(self.sock, 4))[0] != OK:
            raise Refused("Could not send memory to destination")
        for at in range(0, len(memory), CHUNK):
            send(self.sock, memory[at:at + CHUNK])

    def send_structures(self):
        kernel, devices = self.guest.structures()
        for request, data in enumerate(kernel, 10):
            send(self.sock, header(KERNEL, len(data), request) + data)
        send(self.sock, struct.pack("<i", len(devices)))
        for name, data in devices:
            send(self.sock, header(DEVICE, len(data), 0, name) + data)

    def run(self, live):
        """Whether the destination has it. Else the guest goes on."""
        try:
            self.check_specs()
            send(self.sock, struct.pack("<i", int(live)))
            if live:
                self.send_live()
            else:
                self.guest.pause()
                self.send_warm()
            self.send_structures()
            stack = OK if os.environ.get("BHYVE_SHIM_EOF", "exit") == "exit" else NOT_OK
            answer = receive(self.sock, 8, struct.pack("<Q", stack))
            if struct.unpack("<Q", answer)[0] == OK:
                return True
            raise Refused("Could not recv migration completed remote or received error")
        except (Refused, OSError) as error:
            print(f"vm_send_migrate_req: {error}", flush=True)
            self.guest.resume()
            self.sock.close()
            return False


class Destination:
    """Receives a guest into `memory`, a mutable buffer of the size that it must have."""

    def __init__(self, sock, memory):
        self.sock, self.memory = sock, memory

    def check_specs(self):
        size, kind, _, _ = HEADER.unpack(receive(self.sock, HEADER.size))
        if kind != SPECS:
            raise Refused("Wrong message type received from remote")
        theirs = receive(self.sock, size)
        answer = OK if theirs == specs() else NOT_OK
        send(self.sock, struct.pack("<Q", answer))
        if answer != OK:
            raise Refused("System specification mismatch")

    def receive_into(self, at, size):
        old = self.memory[at:at + size]
        self.memory[at:at + size] = receive(self.sock, size, old)

    def receive_live(self):
        rounds = receive(self.sock, 1)[0]
        for _ in range(rounds + 1):
            pages = receive(self.sock, len(self.memory) // PAGE)
            if pages.count(1) == len(pages):
                for at in range(0, len(self.memory), CHUNK):
                    self.receive_into(at, min(CHUNK, len(self.memory) - at))
                continue
            at = pages.find(1)
            while at >= 0:
                self.receive_into(at * PAGE, PAGE)
                at = pages.find(1, at + 1)

    def receive_warm(self):
        low, high = struct.unpack("<QQ", receive(self.sock, 16))
        answer = OK if (low, high) == (len(self.memory), 0) else NOT_OK
        send(self.sock, struct.pack("<i", answer))
        if answer != OK:
            raise Refused("Memory size mismatch with remote host")
        for at in range(0, low, CHUNK):
            self.receive_into(at, min(CHUNK, low - at))

    def receive_message(self, wanted):
        size, kind, _, name = HEADER.unpack(receive(self.sock, HEADER.size))
        if kind != wanted:
            raise Refused("Receive wrong message type.")
        return name.rstrip(b"\0").decode(), receive(self.sock, size)

    def run(self, kernel_structures):
        """The kernel structures and the devices."""
        self.check_specs()
        if struct.unpack("<i", receive(self.sock, 4))[0]:
            self.receive_live()
        else:
            self.receive_warm()
        kernel = [self.receive_message(KERNEL)[1] for _ in range(kernel_structures)]
        count = struct.unpack("<i", receive(self.sock, 4))[0]
        return kernel, [self.receive_message(DEVICE) for _ in range(count)]

    def answer(self):
        print("vm_recv_migrate_req: Migration completed", flush=True)
        send(self.sock, struct.pack("<Q", OK))
        self.sock.close()


def listen(port):
    """On all addresses, whatever host was given; one connection is taken."""
    listener = socket.socket()
    listener.bind(("0.0.0.0", port))
    listener.listen(1)
    sock, _ = listener.accept()
    return listener, sock
