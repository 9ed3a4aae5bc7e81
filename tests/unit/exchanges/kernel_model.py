"""The state machine of bpf/http1.c again, in Python: calls on one connection -> the records that the kernel makes.

The kernel tests hold the real one against real sockets; this one lets tests without root cut bytes at will.
"""

import re

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.records.kinds import EndReason, Kind, Record, RecordFlag
from otel_ebpf.records.layouts import REQUEST_CAPTURE_BYTES, RESPONSE_CAPTURE_BYTES
from otel_ebpf.records.progress import Progress

MS = 1_000_000
IDLE, REQUEST, RESPONSE, FOREIGN = range(4)
OF_REQUEST, OF_RESPONSE = 0, 1  # index of what is counted by direction


def begins_like_request(data: bytes) -> bool:
    return data[:1] in (b"\r", b"\n") or bool(re.match(rb"[A-Z_-]{1,8}(?: |\Z)|[A-Z_-]{8}", data[:8]))


class Connection:
    """Calls in, exchanges out; `now_ms` is the time of the next call."""

    def __init__(self, role: Role = Role.SERVER, assembler: Assembler | None = None) -> None:
        self.role = role
        self.assembler = assembler or Assembler()
        self.exchanges: list[Exchange] = []
        self.records: list[Record] = []
        self.now_ms = 1
        self.lost = 0
        self.is_lost = False  # the exchange in hand
        self._state = IDLE
        self._position = -1
        self._bytes = [0, 0]
        self._last_ns = [0, 0]
        self._captured = [0, 0]
        self._is_head_done = [False, False]
        self._is_untold = False
        self._flags = RecordFlag.ROLE_BY_CONNECTION
        self._tail = b""
        self._ended = 0

    def request(self, data: bytes, *, at_ms: int | None = None, uncopied: int = 0) -> "Connection":
        """One call that moves request bytes; `uncopied` more of them than could be captured."""
        return self._move(OF_REQUEST, data, at_ms, uncopied)

    def response(self, data: bytes, *, at_ms: int | None = None, uncopied: int = 0) -> "Connection":
        return self._move(OF_RESPONSE, data, at_ms, uncopied)

    def end(self, reason: EndReason, *, at_ms: int | None = None, flags: int = 0) -> "Connection":
        self._tick(at_ms)
        self._flags |= flags
        if self._state in (REQUEST, RESPONSE):
            self._state = IDLE
            self._ended = reason
            self._send(Kind.END, b"", 0, reason)
        return self

    @property
    def began(self) -> int:
        """What the kernel counts: one a run."""
        return self._position + 1

    def wait(self, ms: int) -> "Connection":
        """Time passes, and the assembler looks at the progress table twice: what no record tells of counts then."""
        self.now_ms += ms
        for look in range(2):
            self.exchanges += self.assembler.watch(self.progress, self.now_ms * MS + look)
        return self

    def progress(self, connection: int, position: int) -> Progress | None:
        if position > self._position:
            return None
        return Progress(
            self._position,
            self._ended,
            self.is_lost,
            self.lost,
            0,
            self._bytes[1],
            self._last_ns[1],
            self._bytes[0],
            self._last_ns[0],
            self._tail,
            0,
        )

    def _tick(self, at_ms: int | None) -> None:
        self.now_ms = self.now_ms + 1 if at_ms is None else at_ms

    def _move(self, direction: int, data: bytes, at_ms: int | None, uncopied: int) -> "Connection":
        self._tick(at_ms)
        if self._state == FOREIGN or not data:
            return self
        total = len(data) + uncopied
        if direction == OF_REQUEST:
            self._move_request(data, total)
        else:
            self._move_response(data, total)
        return self

    def _move_request(self, data: bytes, total: int) -> None:
        is_beginning = begins_like_request(data)
        if self._state == IDLE or (self._state == RESPONSE and is_beginning):
            if not is_beginning:
                self._state = FOREIGN
                return
            if self._state == RESPONSE and self._is_untold:
                self.end(EndReason.NEXT_REQUEST, at_ms=self.now_ms)
            self._state = REQUEST
            self._position += 1
            self._ended = 0
            self._bytes, self._last_ns = [total, 0], [self.now_ms * MS, 0]
            self._captured, self._is_head_done = [0, 0], [False, False]
            self._flags &= RecordFlag.ROLE_BY_CONNECTION
            self._tail = b""
            self._capture(Kind.REQUEST, OF_REQUEST, data, total, REQUEST_CAPTURE_BYTES)
            return
        self._count(OF_REQUEST, total)
        if self._state == RESPONSE:
            if total == len(data) >= 18 and data.endswith(b"\r\n\r\n"):
                self._flags |= RecordFlag.PAYLOAD_IS_END
                self._send(Kind.REQUEST_MORE, data[-REQUEST_CAPTURE_BYTES:], total)
                self._flags &= ~RecordFlag.PAYLOAD_IS_END
            return
        if is_beginning and self._is_head_done[0]:
            self._captured[0], self._is_head_done[0] = 0, False
        if not self._is_head_done[0] and self._captured[0] < REQUEST_CAPTURE_BYTES:
            self._capture(Kind.REQUEST_MORE, OF_REQUEST, data, total, REQUEST_CAPTURE_BYTES)

    def _move_response(self, data: bytes, total: int) -> None:
        if self._state == IDLE:
            return
        is_beginning = data[:7] == b"HTTP/1."[: len(data)]
        if not self._bytes[1] and not is_beginning and not self._position:
            self.end(EndReason.NOT_HTTP, at_ms=self.now_ms)
            self._state = FOREIGN
            return
        self._count(OF_RESPONSE, total)
        self._tail = (self._tail + data)[-8:] if total == len(data) else bytes(8)
        status = data[9:12] if is_beginning else b""
        if not (status.startswith(b"1") and len(status) == 3 and status != b"101"):
            self._state = RESPONSE
        if is_beginning:
            self._captured[1], self._is_head_done[1] = 0, False
        if not self._is_head_done[1] and self._captured[1] < RESPONSE_CAPTURE_BYTES:
            self._capture(Kind.RESPONSE, OF_RESPONSE, data, total, RESPONSE_CAPTURE_BYTES)
        if status == b"101":
            self._state = FOREIGN

    def _count(self, direction: int, total: int) -> None:
        self._bytes[direction] += total
        self._last_ns[direction] = self.now_ms * MS
        self._is_untold = True

    def _capture(self, kind: Kind, direction: int, data: bytes, total: int, limit: int) -> None:
        payload = data[: limit - self._captured[direction]]
        self._captured[direction] += len(payload)
        self._is_head_done[direction] = payload.endswith(b"\r\n\r\n")
        self._send(kind, payload, total)

    def _send(self, kind: Kind, payload: bytes, total: int, reason: EndReason = EndReason.NONE) -> None:
        self._is_untold = False
        record = Record(
            kind,
            self.lost,
            self.role,
            2,
            reason,
            self._flags,
            len(payload),
            41,
            42,
            40,
            self._position,
            7,
            self.now_ms * MS,
            *self._bytes,
            *self._last_ns,
            total,
            8080,
            50000,
            bytes([127, 0, 0, 1]) + bytes(12),
            bytes([127, 0, 0, 1]) + bytes(12),
            self._tail,
            0,
            payload,
        )
        self.records.append(record)
        self.exchanges += self.assembler.feed(record)
