"""A connection whose two ends are in this process, watched by the real programs: the wire's truth is what we write.

One thread moves all bytes, so what happened when is known. The kernel makes records of both ends, a server's and a
client's; `exchanges(role)` gives what they became.
"""

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from otel_ebpf.probe.attachments import Attachments
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import TARGET
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.records.decode import Buffer, decode_lookup, decode_record, is_lookup
from otel_ebpf.records.kinds import Counter, Lookup, Record
from otel_ebpf.records.progress import ProgressTable
from otel_ebpf.records.ring import RingReader

RING_PAGES = 256
FLAGS = {"CPU_BITS": 4, "RING_PAGES": RING_PAGES, "MAX_CONNECTIONS": 512}  # of the programs that most tests share
LONGEST_WAIT_SECONDS = 30.0  # only a failure waits for so long
BOTH = (Role.SERVER, Role.CLIENT)

# method, target, status, request body, response body, outcome
Expected = tuple[bytes, bytes, int | None, int | None, int | None, Outcome]


def summary(exchange: Exchange) -> Expected:
    return (
        exchange.method,
        exchange.target,
        exchange.status,
        exchange.request_body_bytes,
        exchange.response_body_bytes,
        exchange.outcome,
    )


class Watched:
    """The programs, attached to this process alone."""

    def __init__(self, loaded: Loaded, hooks: SocketHooks) -> None:
        self.maps = loaded.maps
        self._programs = loaded.programs
        self.ring = RingReader(loaded.maps["records"].fd, RING_PAGES * os.sysconf("SC_PAGESIZE"))
        self.progress = ProgressTable(loaded.maps["progress"].fd)
        self.attachments = Attachments(loaded, hooks)
        self.attachments.attach_lasting()
        self.attachments.attach_socket_programs(True)
        self.watch(os.getpid())
        self.fresh()

    def watch(self, pid: int, flags: int = 0) -> None:
        self.maps["targets"].update(struct.pack("<I", pid), TARGET.pack(pid, flags))

    def unwatch(self, pid: int) -> None:
        self.maps["targets"].delete(struct.pack("<I", pid))

    def fresh(self) -> None:
        """Forgets what was before."""
        self.ring.drain(lambda *_: None, self.ring.produced)
        self.assembler = Assembler()
        self.records: list[Record] = []
        self.lookups: list[Lookup] = []
        self.done: list[Exchange] = []

    def collect(self) -> list[Exchange]:
        def take(data: Buffer, offset: int, length: int) -> None:
            if is_lookup(data, offset, length):
                self.lookups.append(decode_lookup(data, offset, length))
                return
            record = decode_record(data, offset, length)
            self.records.append(record)
            self.done += self.assembler.feed(record)

        self.ring.drain(take, self.ring.produced)
        self.done += self.assembler.watch(self.progress.read, time.monotonic_ns())
        return self.done

    def until(
        self, is_enough: Callable[[list[Exchange]], bool], seconds: float = LONGEST_WAIT_SECONDS
    ) -> list[Exchange]:
        """What there is once it is enough, or after so long: the caller compares."""
        deadline = time.monotonic() + seconds
        while not is_enough(self.collect()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.done

    def exchanges(self, role: Role) -> list[Exchange]:
        return [exchange for exchange in self.collect() if exchange.role is role]

    def expect(self, *server: Expected, client: list[Expected] | None = None) -> None:
        """Waits for what both ends must be found to have seen, the same unless said; when it is nothing, whether nothing comes."""
        expected = {Role.SERVER: list(server), Role.CLIENT: list(server) if client is None else client}
        count = sum(map(len, expected.values()))
        self.until(lambda done: len(done) >= max(1, count), LONGEST_WAIT_SECONDS if count else 0.3)
        found = {role: [summary(exchange) for exchange in self.exchanges(role)] for role in BOTH}
        assert expected == found, f"\n{expected}, not\n{found}\n{self.losses()}"

    def counter(self, which: Counter) -> int:
        values = self.maps["counters"].lookup_per_cpu(struct.pack("<I", which)) or []
        return sum(int.from_bytes(value, "little") for value in values)

    def losses(self) -> str:
        """Why something may not have been told of: what the kernel counts, and which programs it has not run."""
        counted = {which.name: self.counter(which) for which in Counter}
        skipped = {
            name: int(line.split()[1])
            for name, descriptor in self._programs.items()
            for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
            if line.startswith("recursion_misses")
        }
        only = {name: count for name, count in (counted | skipped).items() if count}
        return f"counted: {only}; {self.ring.used_bytes} bytes in the ring"

    def close(self) -> None:
        self.attachments.detach_all()
        self.ring.close()
        self.progress.close()


class Wire:
    """Two connected sockets. `c` and `s` send from the client's or the server's side; the other side reads it all."""

    def __init__(self, family: socket.AddressFamily, folder: Path) -> None:
        address: object = str(folder / "wire.sock")
        if family != socket.AF_UNIX:
            address = ("127.0.0.1" if family == socket.AF_INET else "::1", 0)
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen()
            self.client = socket.socket(family, socket.SOCK_STREAM)
            self.client.connect(listener.getsockname())
            self.server, _ = listener.accept()

    def c(self, data: bytes, pieces: int = 1) -> None:
        self._move(self.client, self.server, data, pieces)

    def s(self, data: bytes, pieces: int = 1) -> None:
        self._move(self.server, self.client, data, pieces)

    def s_file(self, count: int, piece_bytes: int = 50_000) -> None:
        """The server sends a file of so many bytes; they never are in its memory."""
        with tempfile.TemporaryFile() as file:
            file.truncate(count)
            while count:
                left = sent = os.sendfile(self.server.fileno(), file.fileno(), None, min(count, piece_bytes))
                count -= sent
                while left:
                    left -= len(self.client.recv(left))

    def _move(self, sender: socket.socket, receiver: socket.socket, data: bytes, pieces: int) -> None:
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            left = len(piece)
            view = memoryview(piece)
            while left:
                sent = sender.send(view) if view else 0
                view = view[sent:]
                left -= len(receiver.recv(min(left, 65536)))

    def end_of_stream(self, receiver: socket.socket) -> None:
        assert receiver.recv(1) == b""

    def server_leaves(self) -> None:
        self.server.close()
        self.end_of_stream(self.client)

    def client_leaves(self) -> None:
        self.client.close()
        self.end_of_stream(self.server)
        self.server.close()

    def reset(self, which: socket.socket) -> None:
        """Closes with a reset: SO_LINGER of no time."""
        which.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        which.close()

    def close(self) -> None:
        self.client.close()
        self.server.close()
