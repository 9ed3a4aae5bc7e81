"""Traffic of a few connections, made by what a fuzzer chooses, as the kernel tells of it.

In:   choices
Out:  records to an assembler, late or at once, some of them lost; readings of the progress table
Owns: what was sent
"""

from typing import NamedTuple

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.records.kinds import EndReason, Kind, Record
from otel_ebpf.records.layouts import REQUEST_CAPTURE_BYTES, RESPONSE_CAPTURE_BYTES
from otel_ebpf.records.progress import Progress
from tests.fuzz.choices import Choices
from tests.unit.exchanges.kernel_model import IDLE, MS, RESPONSE, Connection

SECRET = b"\xee"  # stands in bodies and in header fields that nobody may see
_BODIES = (b"", b"a", b"\r\n", b"GET /wrong HTTP/1.1\r\n\r\n", b"HTTP/1.1 599 Wrong\r\n\r\n", SECRET * 9, b"B" * 3000)
_ENDS = (EndReason.CLOSED, EndReason.PEER_CLOSED, EndReason.RESET, EndReason.SOCKET_GONE)


class Ring:
    """Stands between a connection and the assembler: it may be full, and it may be read late."""

    def __init__(self, number: int, assembler: Assembler) -> None:
        self.number = number
        self.assembler = assembler
        self.has_room = True
        self.is_read_at_once = True
        self.records: list[Record] = []
        self._unread: list[Record] = []
        self._seen_count = 0  # of all records, at the last look

    def feed(self, record: Record) -> list[Exchange]:
        record = record._replace(connection=self.number, lost=record.lost & 0xFF)
        self.records.append(record)
        self._unread.append(record)
        return self.read(len(self._unread)) if self.is_read_at_once else []

    def read(self, count: int) -> list[Exchange]:
        read, self._unread = self._unread[:count], self._unread[count:]
        return [exchange for record in read for exchange in self.assembler.feed(record)]

    def read_all(self) -> list[Exchange]:
        return self.read(len(self._unread))

    def read_what_was_there(self) -> list[Exchange]:
        """At the last look."""
        new_count = 0 if self.is_read_at_once else len(self.records) - self._seen_count
        self._seen_count = len(self.records)
        return self.read(max(0, len(self._unread) - new_count))


class ToldConnection(Connection):
    """One with a ring and a slot of the progress table, which is written when the kernel writes it."""

    def __init__(self, role: Role, assembler: Assembler, number: int) -> None:
        self.ring = Ring(number, assembler)
        super().__init__(role, self.ring)
        self._slot: Progress | None = None

    def progress(self, connection: int, position: int) -> Progress | None:
        slot = self._slot
        return slot if slot is not None and connection == self.ring.number and slot.position >= position else None

    def _write_slot(self) -> None:
        slot = super().progress(self.ring.number, self._position)
        self._slot = slot._replace(lost_count=slot.lost_count & 0xFF)

    def _move_request(self, data: bytes, total: int) -> None:
        super()._move_request(data, total)
        if self._position >= 0 and (self._state == RESPONSE or self.is_lost):
            self._write_slot()

    def _move_response(self, data: bytes, total: int) -> None:
        is_told = self._state != IDLE
        super()._move_response(data, total)
        if is_told:
            self._write_slot()

    def _send(self, kind: Kind, payload: bytes, total: int, reason: EndReason = EndReason.NONE, **part: int) -> None:
        if kind == Kind.REQUEST:
            self.is_lost = False
        if kind == Kind.END:
            self._write_slot()
        if self.is_lost:
            return  # nothing more is said of the exchange
        if self.ring.has_room:
            super()._send(kind, payload, total, reason, **part)
        elif kind != Kind.END or reason == EndReason.NEXT_REQUEST:
            # The progress table tells of an end, unless the next exchange is about to take the slot.
            self.lost += 1
            self.is_lost = True


class Sent(NamedTuple):
    method: bytes
    status: int
    request_body_bytes: int
    response_body_bytes: int


class Traffic:
    """All connections share one assembler and one clock."""

    def __init__(self, choices: Choices, connections: int = 2) -> None:
        self.choices = choices
        self.assembler = Assembler()
        self.connections = [
            ToldConnection(choices.one_of(list(Role)), self.assembler, number) for number in range(1, connections + 1)
        ]
        self.sent: dict[bytes, Sent] = {}
        self.is_all_seen = True  # no record was lost, no head is too long to be captured, or lies within a call

    @property
    def exchanges(self) -> list[Exchange]:
        return [exchange for connection in self.connections for exchange in connection.exchanges]

    @property
    def began(self) -> int:
        return sum(connection.began for connection in self.connections)

    @property
    def lost(self) -> int:
        return sum(connection.lost for connection in self.connections)

    def disturb(self, connection: ToldConnection) -> None:
        """Between two calls: time, a ring that is full or is not read, a look at the progress table."""
        act = self.choices.number() % 32
        if act == 1:
            connection.ring.has_room = False
            self.is_all_seen = False
        elif act == 2:
            connection.ring.has_room = True
        elif act == 3:
            connection.ring.is_read_at_once = not connection.ring.is_read_at_once
        elif act == 4:
            self.look(self.choices.number())
        elif act == 5:
            self.look(2000)

    def look(self, after_ms: int) -> None:
        """One pass of the exporter: the ring first, then the table, which may be ahead by what came during the pass."""
        now_ms = max(connection.now_ms for connection in self.connections) + after_ms
        for connection in self.connections:
            connection.now_ms = now_ms
            connection.exchanges += connection.ring.read_what_was_there()
        self.connections[0].exchanges += self.assembler.watch(self.progress, now_ms * MS)

    def progress(self, connection: int, position: int) -> Progress | None:
        return self.connections[connection - 1].progress(connection, position)

    def honest_exchanges(self, connection: ToldConnection) -> None:
        """Up to four requests, one behind the other, then their responses."""
        requests, responses = b"", b""
        count = 1 + self.choices.number() % 4
        if count > 1:
            self.is_all_seen = False
        for _ in range(count):
            request, response = self._exchange()
            requests += request
            responses += response
        if len(requests) > REQUEST_CAPTURE_BYTES or len(responses) > RESPONSE_CAPTURE_BYTES:
            self.is_all_seen = False
        for is_request, stream in ((True, requests), (False, responses)):
            for piece in self.choices.pieces(stream):
                self.disturb(connection)
                (connection.request if is_request else connection.response)(piece)

    def _exchange(self) -> tuple[bytes, bytes]:
        kinds = self.choices.number()
        method = (b"GET", b"POST", b"HEAD", b"PURGE")[kinds & 3]
        status = (200, 204, 304, 404, 500)[(kinds >> 2) % 5]
        target = b"/%d?key=%b" % (len(self.sent), b"v" * (kinds >> 6))
        body = self.choices.one_of(_BODIES) if method == b"POST" else b""
        answer = self.choices.one_of(_BODIES)
        has_body = method != b"HEAD" and status not in (204, 304)
        self.sent[target] = Sent(method, status, len(body), len(answer) if has_body else 0)
        fields = b"Host: h\r\nCookie: " + SECRET + b"\r\n"
        request = method + b" " + target + b" HTTP/1.1\r\n" + fields + self._framed(body, method == b"POST")
        interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" if kinds >> 5 & 1 else b""
        response = interim + b"HTTP/1.1 %d Reason\r\nSet-Cookie: %b\r\n" % (status, SECRET)
        framed = self._framed(answer, True)
        return request, response + (framed if has_body else framed[: framed.index(b"\r\n\r\n") + 4])

    def _framed(self, body: bytes, is_there: bool) -> bytes:
        if not is_there:
            return b"\r\n"
        chunk_bytes = self.choices.number()
        if not chunk_bytes & 1:
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        extension = b";a=b" if chunk_bytes & 16 else b""
        trailer = b"A: b\r\n" if chunk_bytes & 32 else b""
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        return b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n"

    def hostile_calls(self, connection: ToldConnection) -> None:
        """Anything, in any order."""
        pieces = (
            b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            b"hello",
            b"G",
        )
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        more = (b"HTTP/1.1 200 OK\r\n" + chunked, b"POST / HTTP/1.1\r\n" + chunked, b"5\r\nhello\r\n", b"0\r\n\r\n")
        for _ in range(self.choices.number() % 8):
            self.disturb(connection)
            act = self.choices.number()
            piece = (pieces + more)[act >> 2 & 7] if act & 2 else self.choices.some_bytes()
            uncopied = self.choices.number(2) if act >> 5 == 7 else 0
            (connection.request if act & 1 else connection.response)(piece, uncopied=uncopied)

    def end(self) -> None:
        """Connections close, or do not; then the agent ends."""
        for connection in self.connections:
            self.disturb(connection)
            if self.choices.number() & 1:
                connection.end(self.choices.one_of(_ENDS))
        for connection in self.connections:
            connection.exchanges += connection.ring.read_all()
        self.look(300)
        self.look(2000)
        self.look(2000)
        self.assembler.end_all(self.progress)

    def check_account(self) -> None:
        """Every request that began is an exchange or a counted loss, each once."""
        assembler = self.assembler
        accounted = len(self.exchanges) + sum(assembler.losses.values()) + self.lost - assembler.recovered
        assert self.began + assembler.pipelined == accounted, (
            self.began,
            assembler.pipelined,
            [exchange.target for exchange in self.exchanges],
            dict(assembler.losses),
            self.lost,
            assembler.recovered,
        )
