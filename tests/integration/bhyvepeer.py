"""Both ends of bhyve's migration as drover-wire's neighbours see them (docs/wire-bhyve.md): they say
what usr.sbin/bhyve/migration.c says, in its order, and wait for each other where it does."""

import random
import socket
import struct

import wirelab

PAGE = 4096
SPECS, KERNEL, DEVICE = 1, 4, 5
OK, NOT_OK = 0, 1


class Hung(AssertionError):
    """One end waits for the other in vain."""


class _End:
    def __init__(self, connection):
        self.connection = connection
        connection.settimeout(wirelab.LIMIT_S)
        self.sent, self.received = bytearray(), bytearray()

    def say(self, data):
        self.connection.sendall(data)
        self.sent += data

    def hear(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                piece = self.connection.recv(min(count - len(data), 1 << 20))
            except TimeoutError:
                raise Hung(f"{count - len(data)} bytes of {count} never come") from None
            if not piece:
                raise EOFError
            data += piece
        self.received += data
        return bytes(data)

    def number(self, form="<Q"):
        return struct.unpack(form, self.hear(struct.calcsize(form)))[0]


class Guest:
    """Its memory: each page is zeros, text or noise, and changes in a few words."""

    def __init__(self, pages, lowmem=None, seed=1):
        self.random = random.Random(seed)
        self.lowmem = lowmem or pages
        self.pages = [self._page(i) for i in range(pages)]

    def _page(self, number):
        if number % 3 == 0:
            return bytes(PAGE)
        return self.random.randbytes(PAGE) if number % 3 == 1 else b"page %9d, " % number * 256

    def change(self, count):
        """The numbers of so many pages, now different."""
        numbers = sorted(self.random.sample(range(len(self.pages)), count))
        for number in numbers:
            at = self.random.randrange(PAGE - 8)
            page = self.pages[number]
            self.pages[number] = page[:at] + b"changed!" + page[at + 8:]
        return numbers


class Source(_End):
    """bhyve of a guest that is told to migrate."""

    def migrate(self, guest, live, model=b"a CPU"):
        """Whether the destination has taken it."""
        self.say(struct.pack("<QII64s", 520, SPECS, 0xdeadbeef, b"whatever was on the stack"))
        self.say(struct.pack("<256s256sQ", b"amd64", model, PAGE))
        if self.number() != OK:
            return False
        self.say(struct.pack("<i", live))
        if live:
            self._rounds(guest)
        elif not self._memory(guest):
            return False
        self._state()
        return self.number() == OK

    def _memory(self, guest):
        low = guest.lowmem * PAGE
        self.say(struct.pack("<Q", low))
        self.say(struct.pack("<Q", len(guest.pages) * PAGE - low))
        if self.number("<i") != OK:
            return False
        for page in guest.pages:
            self.say(page)
        return True

    def _rounds(self, guest, rounds=4):
        self.say(struct.pack("<B", rounds))
        changed = range(len(guest.pages))
        for _ in range(rounds + 1):
            listed = bytearray(len(guest.pages))
            for number in changed:
                listed[number] = 1
            self.say(listed)
            for number in changed:
                self.say(guest.pages[number])
            changed = guest.change(len(guest.pages) // 4)

    def _state(self):
        for request in range(1, 9):
            self._structure(KERNEL, request, b"")
        names = (b"virtio-net", b"virtio-blk", b"lpc", b"fbuf", b"xhci", b"e1000", b"ahci", b"uart")
        self.say(struct.pack("<i", len(names)))
        for name in names:
            self._structure(DEVICE, 0, name)

    def _structure(self, kind, request, name):
        state = random.randbytes(random.choice((0, 7, 3000, 40000)))
        self.say(struct.pack("<QII64s", len(state), kind, request, name))
        self.say(state)


class Destination(_End):
    """bhyve -R of a guest with so many pages."""

    def receive(self, pages, model=b"a CPU", kernel=8):
        """Whether it has taken the guest; self.pages is its memory then."""
        self.pages = [bytes(PAGE)] * pages
        assert struct.unpack("<QI", self.hear(80)[:12]) == (520, SPECS)
        specs = struct.unpack("<256s256sQ", self.hear(520))
        fits = specs[1].rstrip(b"\0") == model and specs[2] == PAGE
        self.say(struct.pack("<Q", OK if fits else NOT_OK))
        if not fits:
            return False
        if self.number("<i"):
            self._rounds()
        elif not self._memory():
            return False
        for _ in range(kernel):
            self._structure(KERNEL)
        for _ in range(self.number("<i")):
            self._structure(DEVICE)
        self.say(struct.pack("<Q", OK))
        self.connection.close()
        return True

    def _memory(self):
        low, high = self.number(), self.number()
        fits = low + high == len(self.pages) * PAGE
        self.say(struct.pack("<i", OK if fits else NOT_OK))
        if fits:
            for number in range(len(self.pages)):
                self.pages[number] = self.hear(PAGE)
        return fits

    def _rounds(self):
        for _ in range(self.number("<B") + 1):
            listed = self.hear(len(self.pages))
            for number, follows in enumerate(listed):
                if follows == 1:
                    self.pages[number] = self.hear(PAGE)

    def _structure(self, kind):
        length, what = struct.unpack("<QI", self.hear(80)[:12])
        assert what == kind
        self.hear(length)


def connect(port):
    return socket.create_connection(("127.0.0.1", port))
