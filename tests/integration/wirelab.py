"""For the tests of drover-wire: certificates, both of its sides as processes, and a peer in Python
that has a good certificate and says whatever a test wants."""

import ctypes
import json
import queue
import socket
import ssl
import struct
import subprocess
import threading

import pytest
from droverlab.paths import PROGRAMS

WIRE = PROGRAMS / "src" / "wire" / "drover-wire"
# No test measures time; this only ends one that hangs.
LIMIT_S = 60

HELLO, DATA, RETURN, END, END_ACK, ACK, ERROR = 1, 2, 3, 4, 5, 6, 7
SETUP, SETUP_ACK, BATCH, MISS, PAGES, READING = 8, 9, 10, 11, 12, 13
NUMBERED = (DATA, RETURN, END, END_ACK, SETUP, SETUP_ACK, BATCH)
SEND, RECV = 1, 2


class Authority:
    """A CA that makes node certificates, with openssl."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.ca = folder / "ca.crt"
        self._key(folder / "ca.key")
        self._run("req", "-x509", "-new", "-key", folder / "ca.key", "-subj", "/CN=drover test",
                  "-days", "2", "-out", self.ca, "-addext", "keyUsage=critical,keyCertSign")

    @staticmethod
    def _run(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def _key(self, path):
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)

    def node(self, name, dns=None, usage="serverAuth,clientAuth", subject=None):
        """Files of one node's certificate and key: {"cert", "key"}."""
        base = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        self._key(f"{base}.key")
        self._run("req", "-new", "-key", f"{base}.key", "-subj", subject or f"/CN={name}",
                  "-out", f"{base}.csr")
        extensions = self.folder / f"{base.name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{dns or name}\nextendedKeyUsage={usage}\n")
        self._run("x509", "-req", "-in", f"{base}.csr", "-CA", self.ca, "-CAkey",
                  self.folder / "ca.key", "-CAcreateserial", "-days", "2", "-extfile", extensions,
                  "-out", f"{base}.crt")
        return {"cert": f"{base}.crt", "key": f"{base}.key"}

    def context(self, node, server=False):
        """For a peer in Python; node None: without a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        if node:
            context.load_cert_chain(node["cert"], node["key"])
        return context


class Side:
    """A running drover-wire; its status lines are read as they come."""

    def __init__(self, verb, *arguments, env=None, pass_fds=(), within=()):
        self.process = subprocess.Popen([*within, WIRE, verb, *map(str, arguments)], env=env,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, pass_fds=pass_fds)
        self.events, self.seen, self.stderr = queue.Queue(), [], ""
        self.threads = [threading.Thread(target=self._read_status),
                        threading.Thread(target=self._read_stderr)]
        for thread in self.threads:
            thread.start()

    def _read_status(self):
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def _read_stderr(self):
        self.stderr = self.process.stderr.read()

    def wait_for(self, event):
        while True:
            found = self.events.get(timeout=LIMIT_S)
            assert found, f"ended before \"{event}\": {self.seen} {self.stderr}"
            self.seen.append(found)
            if found["event"] == event:
                return found

    def finish(self):
        """Exit status; all further events are in self.seen."""
        status = self.process.wait(timeout=LIMIT_S)
        for thread in self.threads:
            thread.join()
        while event := self.events.get():
            self.seen.append(event)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def end(self):
        """The "end" event of a side that must succeed."""
        assert self.finish() == 0, (self.seen, self.stderr)
        return self.seen[-1]

    def error(self):
        """Kind and message of a side that must fail, with one sentence and its exit status."""
        status = self.finish()
        last = self.seen[-1] if self.seen else {}
        assert status > 0, (status, self.seen, self.stderr)
        assert last.get("event") == "error", (status, self.seen, self.stderr)
        assert self.stderr.strip().endswith(last["message"]) and "\n" not in self.stderr.strip()
        return last["kind"], last["message"]

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()


def frame(kind, payload=b"", number=None, length=None):
    if number is None:
        number = 1 if kind in NUMBERED else 0
    return struct.pack(">IB3xQ", len(payload) if length is None else length, kind,
                       number) + payload


def hello(role, migration="m1", **fields):
    name = migration.encode()
    values = {"magic": b"DRVW", "oldest": 1, "newest": 1, "role": role, "lane": 0, "features": 0,
              "payload_max": 1048560, "next": 1, "lanes": 1, "window": 16, "session": 1, **fields}
    return struct.pack(">4sHHBBQIQBBHQ", values["magic"], values["oldest"], values["newest"],
                       values["role"], values["lane"], values["features"], values["payload_max"],
                       values["next"], values["lanes"], values["window"], len(name),
                       values["session"]) + name


def read_hello(payload):
    names = ("magic", "oldest", "newest", "role", "lane", "features", "payload_max", "next",
             "lanes", "window", "length", "session")
    return dict(zip(names, struct.unpack(">4sHHBBQIQBBHQ", payload[:42])))


def xxh3(data):
    """XXH3, 64 bits, seed 0, as END has it."""
    function = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_char_p, ctypes.c_size_t)
    return struct.pack(">Q", function(data, len(data)))


def setup(key=bytes(32), cache=0, sources=b"\0\0"):
    return key + struct.pack(">Q", cache) + sources


class Peer:
    """The other end of a lane."""

    def __init__(self, connection):
        self.connection = connection
        connection.settimeout(LIMIT_S)

    @classmethod
    def connect(cls, port, context):
        return cls(context.wrap_socket(socket.create_connection(("127.0.0.1", port))))

    def send(self, data):
        self.connection.sendall(data)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def receive(self):
        """(type, number, payload) of the next frame."""
        length, kind, number = struct.unpack(">IB3xQ", self._exactly(16))
        return kind, number, self._exactly(length)

    def said(self):
        """The message of the ERROR that comes; what comes before it is dropped."""
        payload = self.receive_until(ERROR)[2]
        return payload[1 + payload[0]:].decode()

    def receive_until(self, wanted):
        while (found := self.receive())[0] != wanted:
            pass
        return found

    def is_closed(self):
        """Waits until the other side ends the connection, whatever it says before."""
        try:
            while self.connection.recv(65536):
                pass
        except OSError as error:
            return not isinstance(error, TimeoutError)
        return True

    def close(self):
        self.connection.close()


class Bench:
    """Two nodes' files, and the sides that a test has started."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.node1, self.node2 = self.authority.node("node1"), self.authority.node("node2")
        self.sides = []

    def start(self, verb, node, peer, *arguments, ca=None, migration="m1", **options):
        side = Side(verb, "--id", migration, "--cert", node["cert"], "--key", node["key"], "--ca",
                    ca or self.authority.ca, "--peer", peer, *arguments, **options)
        self.sides.append(side)
        return side

    def recv(self, output, *arguments, listen=("--listen", "127.0.0.1:0"), **options):
        """A receiver that listens, and its port."""
        node = options.pop("node", self.node2)
        side = self.start("recv", node, options.pop("peer", "node1"), "--output", output, *listen,
                          *arguments, **options)
        return side, side.wait_for("listening")["port"]

    def send(self, source, port, *arguments, **options):
        node = options.pop("node", self.node1)
        return self.start("send", node, options.pop("peer", "node2"), "--input", source,
                          "--connect", f"127.0.0.1:{port}", *arguments, **options)

    def peer(self, port, node=None):
        return Peer.connect(port, self.authority.context(node or self.node1))

    def lane(self, port, number=0, **fields):
        """A lane of a sender in Python, after the hellos."""
        peer = self.peer(port)
        peer.send(frame(HELLO, hello(SEND, lane=number, **fields)))
        assert peer.receive()[0] == HELLO
        return peer

    def sender(self, port, opening=setup()):
        """Lanes 0 and 1 of a sender in Python, after the setup."""
        lanes = self.lane(port), self.lane(port, 1)
        lanes[1].send(frame(SETUP, opening))
        lanes[0].answer = lanes[0].receive_until(SETUP_ACK)[2]
        return lanes

    def answer(self, server, **fields):
        """A lane of a receiver in Python, after the hellos, and the hello that came."""
        peer = Peer(self.authority.context(self.node2, server=True).wrap_socket(
            server.accept()[0], server_side=True))
        theirs = read_hello(peer.receive()[2])
        peer.send(frame(HELLO, hello(RECV, lane=theirs["lane"], **fields)))
        return peer, theirs

    def receiver(self, server, answer=struct.pack(">QI", 0, 0)):
        """Lanes 0 and 1 of a receiver in Python, after the setup."""
        lanes = self.answer(server)[0], self.answer(server)[0]
        assert lanes[1].receive_until(SETUP)[1] == 1
        lanes[0].send(frame(SETUP_ACK, answer))
        return lanes

    def end(self):
        for side in self.sides:
            side.kill()
            side.process.wait()
        self.sides.clear()


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def read_all(connection, hashed):
    while data := connection.recv(1 << 16):
        hashed.update(data)


@pytest.fixture(name="files", scope="module")
def fixture_files(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("wire"))


@pytest.fixture(name="bench")
def fixture_bench(files):
    yield files
    files.end()


@pytest.fixture(name="listening")
def fixture_listening(tmp_path):
    """A Unix socket that listens, as a hypervisor's does, and its path."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(LIMIT_S)
        server.bind(str(tmp_path / "dst.sock"))
        server.listen(1)
        yield server, tmp_path / "dst.sock"
