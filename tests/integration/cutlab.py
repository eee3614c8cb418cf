"""For the tests that break the wire: a relay that cuts, stalls and delays connections, and streams
as QEMU writes them, whose pages go in every way there is."""

import random
import select
import socket
import struct
import threading

PAGE = 4096
ZERO, FULL, SIZES, END_OF_SECTION, SAME_BLOCK = 0x02, 0x08, 0x04, 0x10, 0x20


class Relay:
    """Passes connections on to a port. Each is broken after a random number of bytes, by a reset, an
    orderly end, or a pause, until so many have been broken; all of it follows from the seed."""

    def __init__(self, port, seed, cuts=0, mean=300_000, pause_s=0.05):
        self.port, self.random = port, random.Random(seed)
        self.cuts, self.mean, self.pause_s = cuts, mean, pause_s
        self.broken = self.connections = 0
        self.lock, self.open = threading.Lock(), threading.Event()
        self.open.set()
        self.ended = False
        self.pairs, self.threads = set(), []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()[1]
        self.threads.append(threading.Thread(target=self._accept))
        self.threads[0].start()

    def _accept(self):
        while True:
            self.open.wait()
            try:
                near = self.server.accept()[0]
            except OSError:
                return
            self.open.wait()
            if self.ended:
                near.close()
                return
            thread = threading.Thread(target=self._carry, args=(near,))
            with self.lock:
                self.connections += 1
                self.threads.append(thread)
            thread.start()

    def _plan(self):
        """After how many bytes the next connection is broken, and how; None: never."""
        with self.lock:
            how = self.random.choice(("reset", "end", "pause", "pause"))
            after = int(self.random.expovariate(1 / self.mean))
            # Some break in the handshake or in the hello; the first does not: what has not begun
            # may fail.
            if self.connections == 1:
                after += 10000
            elif self.random.random() < 0.2:
                after = self.random.randrange(6000)
            return (after, how) if self.broken < self.cuts else (None, None)

    def _carry(self, near):
        after, how = self._plan()
        try:
            far = socket.create_connection(("127.0.0.1", self.port))
        except OSError:
            near.close()
            return
        for end in near, far:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.pairs.add((near, far))
        try:
            self._pass_on(near, far, after, how)
        except OSError:
            pass
        with self.lock:
            self.pairs.discard((near, far))
        near.close()
        far.close()

    def _pass_on(self, near, far, after, how):
        """Ends when either side has ended, or the connection was broken."""
        passed, other = 0, {near: far, far: near}
        while True:
            for end in select.select((near, far), (), ())[0]:
                self.open.wait()
                data = end.recv(65536 if after is None else max(1, min(65536, after - passed)))
                if not data:
                    return
                other[end].sendall(data)
                passed += len(data)
            if after is not None and passed >= after:
                with self.lock:
                    self.broken += 1
                if how == "reset":
                    self._linger((near, far))
                if how != "pause":
                    return
                threading.Event().wait(self.random.random() * self.pause_s)
                passed, (after, how) = 0, self._plan()

    @staticmethod
    def _linger(pair):
        """Closing them resets them."""
        for end in pair:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _end(self, pair, reset):
        """Ends a pair that its thread may have closed already."""
        try:
            if reset:
                self._linger(pair)
            for end in pair:
                end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def hold(self):
        """From now on nothing passes, and nobody is told."""
        self.open.clear()

    def reset(self):
        """Resets all connections; new ones pass again."""
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            self._end(pair, reset=True)
        self.open.set()

    def end(self):
        self.ended = True
        self.open.set()
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            self._end(pair, reset=False)
        for thread in self.threads:
            thread.join()


class Stream:
    """A stream of QEMU from a guest whose memory is made from a seed: pages of an image, zeros,
    text and noise, of which many are sent again, a few words changed, in later rounds."""

    def __init__(self, seed, pages, image=None, rounds=4):
        self.random = random.Random(seed)
        self.pages, self.image, self.rounds = pages, image, rounds
        self.names = (b"pc.ram", b"vga.vram")
        self.memory, self.last = {}, None

    def _page(self):
        kind = self.random.randrange(5)
        if kind == 0:
            return bytes(PAGE)
        if kind == 1 and self.image:
            at = self.random.randrange(len(self.image) // PAGE) * PAGE
            return self.image[at:at + PAGE]
        if kind == 2:
            return self.random.randbytes(PAGE)
        words = [self.random.randbytes(6) for _ in range(20)]
        return b"".join(self.random.choices(words, k=PAGE // 6 + 1))[:PAGE]

    def _changed(self, page):
        page = bytearray(page)
        for _ in range(self.random.randrange(1, 30)):
            at = self.random.randrange(PAGE // 8) * 8
            page[at:at + 8] = self.random.randbytes(8)
        return bytes(page)

    def _record(self, block, number):
        page = self.memory[block, number]
        name = b"" if self.last == block else bytes([len(self.names[block])]) + self.names[block]
        flags = (FULL if any(page) else ZERO) | (0 if name else SAME_BLOCK)
        self.last = block
        return struct.pack(">Q", number * PAGE | flags) + name + (page if any(page) else b"\0")

    def _section(self, kind, body):
        return struct.pack(">BI", kind, 2) + body + struct.pack(">QBI", END_OF_SECTION, 0x7e, 2)

    def _first(self):
        name, size = b"pc-q35-10.0", self.pages * PAGE
        blocks = b"".join(bytes([len(n)]) + n + struct.pack(">Q", size) for n in self.names)
        return (b"QEVM" + struct.pack(">IBI", 3, 7, len(name)) + name
                + struct.pack(">BIB3sII", 1, 2, 3, b"ram", 0, 4)
                + struct.pack(">Q", len(self.names) * size | SIZES) + blocks
                + struct.pack(">QBI", END_OF_SECTION, 0x7e, 2))

    def _round(self, first):
        """Pieces of one round."""
        for start in range(0, self.pages, 500):
            self.last = None
            body = []
            for number in range(start, min(start + 500, self.pages)):
                block = 1 if number % 97 < 3 else 0
                if first:
                    self.memory[block, number] = self._page()
                elif self.random.random() < 0.3:
                    self.memory[block, number] = self._changed(self.memory[block, number])
                else:
                    continue
                body.append(self._record(block, number))
            yield self._section(2, b"".join(body))

    def pieces(self):
        yield self._first()
        for number in range(self.rounds):
            yield from self._round(number == 0)
        yield self._section(3, b"")
        yield struct.pack(">BIB5sII", 4, 7, 5, b"timer", 0, 1) + self.random.randbytes(30000)
        yield struct.pack(">BIB", 0x7e, 7, 0)
