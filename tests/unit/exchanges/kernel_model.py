"""The state machine of bpf/http1.c again, in Python: calls on one connection -> the records that the kernel makes.

The kernel tests hold the real one against real sockets; this one lets tests without root cut bytes at will.
"""

import re

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.records.kinds import EndReason, Kind, Record, RecordFlag
from otel_ebpf.records.layouts import (
    LATE_CAPTURE_BYTES,
    MAX_HEAD_BYTES,
    REQUEST_CAPTURE_BYTES,
    RESPONSE_CAPTURE_BYTES,
)
from otel_ebpf.records.progress import Progress

MS = 1_000_000
IDLE, REQUEST, RESPONSE, FOREIGN = range(4)
OF_REQUEST, OF_RESPONSE = 0, 1  # index of what is counted by direction


END_OF_HEAD = b"\r\n\r\n"
NO_PARENT = (0, 0, 0, 0, 0)  # what a record says of the exchange's parent and of the other end


def begins_like_request(data: bytes) -> bool:
    if data[:1] in (b"\r", b"\n"):
        return bool(re.match(rb"[\r\n]{1,4}\Z|[\r\n]{5}|[\r\n]{1,4}[A-Z]", data[:5]))
    return bool(re.match(rb"(?!-)(?:[A-Z_-]{1,8}(?: |\Z)|[A-Z_-]{8})", data[:8]))


def is_size(data: bytes) -> bool:
    return bool(re.match(rb"[0-9a-fA-F]", data))


def begins_like_response(data: bytes) -> bool:
    return bool(data) and data[:7] == b"HTTP/1."[: len(data)]


class Chunks:
    """bpf/chunks.c, a byte at a time."""

    def __init__(self) -> None:
        self.is_followed = True
        self.has_ended = False
        self.payload_bytes = 0
        self.wire_bytes = 0
        self._line = b""
        self._left = 0  # of a chunk, and of the line end behind it
        self._is_last = False

    def feed(self, data: bytes, uncopied: int = 0) -> bytes:
        """Returns what is behind the end."""
        if uncopied:
            self.is_followed &= 0 < self._left >= len(data) + uncopied
            self._left -= len(data) + uncopied
            self.wire_bytes += len(data) + uncopied
            return b""
        while data and self.is_followed and not self.has_ended:
            taken = min(self._left, len(data)) or 1
            self.wire_bytes += taken
            if self._left:
                self._left -= taken
            else:
                self._line += data[:1]
                (self._read_trailer if self._is_last else self._read_size)()
            data = data[taken:]
        return data

    def _read_size(self) -> None:
        self.is_followed = bool(re.fullmatch(rb"[0-9a-fA-F]{1,7}(?:[ \t\r]*(?:;[^\n]*)?\n?)?", self._line))
        if self.is_followed and self._line.endswith(b"\n"):
            size, self._line = int(re.split(rb"[^0-9a-fA-F]", self._line)[0], 16), b""
            self.payload_bytes += size
            self._left, self._is_last = (size + 2 if size else 0), not size

    def _read_trailer(self) -> None:
        if self._line.endswith(b"\n"):
            self.has_ended = self._line in (b"\n", b"\r\n")
            self._line = b""

    def goes_on_with(self, data: bytes) -> bool:
        """With any byte, or where a size line may begin."""
        is_between = not (self._line or self._left or self._is_last)
        return self.is_followed and not self.has_ended and (not is_between or is_size(data))

    @property
    def is_in_body(self) -> bool:
        return self.payload_bytes > 0 or self._is_last

    @property
    def seen_payload_bytes(self) -> int:
        return self.payload_bytes - max(0, self._left - 2)


class Connection:
    """Calls in, exchanges out; `now_ms` is the time of the next call."""

    def __init__(
        self, role: Role = Role.SERVER, assembler: Assembler | None = None, *, is_told_early: bool = False
    ) -> None:
        """`is_told_early`: responses are told when they are handed over, and `sent` says when they have been sent."""
        self.role = role
        self._is_told_early = is_told_early
        self._sent_ns = 0
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
        self._has_head_ended = False  # of a request, with bytes behind it
        self._head_last = [b"", b""]  # the last bytes of a head in pieces
        self._is_pipelined = False
        self._is_untold = False
        self._flags = RecordFlag.ROLE_BY_CONNECTION
        self._chunks: Chunks | None = None  # of a response whose head is done
        self._request_chunks: Chunks | None = None
        self._is_body_awaited = False  # of a request whose head ended with its call
        self._told = 0  # bytes of the call in hand
        self._tail = b""
        self._ended = 0

    def request(self, data: bytes, *, at_ms: int | None = None, uncopied: int = 0) -> "Connection":
        """One call that moves request bytes; `uncopied` more of them than could be captured."""
        return self._move(OF_REQUEST, data, at_ms, uncopied)

    def response(self, data: bytes, *, at_ms: int | None = None, uncopied: int = 0) -> "Connection":
        return self._move(OF_RESPONSE, data, at_ms, uncopied)

    def sent(self, *, at_ms: int | None = None) -> "Connection":
        """What was handed over last."""
        self._tick(at_ms)
        self._sent_ns = self.now_ms * MS
        return self

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
        unsent, response_last_ns = self._response_end
        return Progress(
            self._position,
            self._ended,
            self.is_lost,
            self.lost,
            self._chunk_flags | unsent,
            self._bytes[1],
            response_last_ns,
            self._bytes[0],
            self._last_ns[0],
            self._tail,
            self._chunk_payload_bytes,
        )

    @property
    def _response_end(self) -> tuple[int, int]:
        """The flag that says it is not known, and what is known of it."""
        handed_over_ns = self._last_ns[1]
        if not self._is_told_early or not handed_over_ns:
            return 0, handed_over_ns
        return (0, self._sent_ns) if self._sent_ns >= handed_over_ns else (RecordFlag.UNSENT, handed_over_ns)

    @property
    def _is_end_untold(self) -> bool:
        return self._is_untold or self._is_told_early

    @property
    def _chunk_flags(self) -> int:
        chunks = self._chunks
        if chunks is None or not chunks.is_followed:
            return 0
        ended = RecordFlag.CHUNKS_ENDED if chunks.has_ended else 0
        return RecordFlag.CHUNKS_FOLLOWED | ended

    @property
    def _chunk_payload_bytes(self) -> int:
        return self._chunks.seen_payload_bytes if self._chunk_flags and self._chunks is not None else 0

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
        self._told = 0
        chunks = self._request_chunks
        is_in_chunks = chunks is not None and chunks.goes_on_with(data)
        if self._is_body_awaited and is_size(data) and not begins_like_request(data):
            self._request_chunks, is_in_chunks = Chunks(), True
        is_beginning = begins_like_request(data)
        if self._state == IDLE or (self._state == RESPONSE and is_beginning):
            if not is_beginning:
                self._state = FOREIGN
                return
            if self._state == RESPONSE and self._is_end_untold:
                self.end(EndReason.NEXT_REQUEST, at_ms=self.now_ms)
            self._state = REQUEST
            self._position += 1
            self._ended = 0
            self._bytes, self._last_ns = [total, 0], [self.now_ms * MS, 0]
            if self._chunks is not None and (self._chunks.has_ended or not self._chunks.is_followed):
                self._chunks = None
            # The answer before may still be in flight.
            self._captured, self._is_head_done = [0, 0], [False, self._chunks is not None and self._chunks.is_in_body]
            self._head_last, self._has_head_ended, self._is_pipelined = [b"", b""], False, False
            self._flags &= RecordFlag.ROLE_BY_CONNECTION
            self._request_chunks, self._is_body_awaited = None, False
            self._capture(Kind.REQUEST, OF_REQUEST, data, total, REQUEST_CAPTURE_BYTES)
            return
        self._count(OF_REQUEST, total)
        self._is_body_awaited = False
        if is_in_chunks and not is_beginning:
            self._follow_request(data, total)
            return
        if not is_in_chunks and not (is_beginning and chunks is not None and chunks.has_ended):
            self._request_chunks = None
        self._capture_more(data, total, is_beginning=is_beginning)
        if is_in_chunks:
            self._follow_request(data, total)

    @property
    def _wanted_request_bytes(self) -> int:
        if self._is_pipelined or not (self._is_head_done[0] or self._has_head_ended):
            return MAX_HEAD_BYTES
        return 0 if self._is_head_done[0] else REQUEST_CAPTURE_BYTES

    def _capture_more(self, data: bytes, total: int, *, is_beginning: bool) -> None:
        if self._state == RESPONSE:
            if total == len(data):
                self._send_end(data)
            return
        if is_beginning and (self._is_head_done[0] or self._has_head_ended):
            self._captured[0], self._is_head_done[0], self._has_head_ended = 0, False, False
            self._head_last[0], self._is_pipelined = b"", True
        room = self._wanted_request_bytes - self._captured[0]
        if room > 0:
            self._capture(Kind.REQUEST_MORE, OF_REQUEST, data, total, min(room, REQUEST_CAPTURE_BYTES))
        elif total == len(data) >= 18 and data.endswith(END_OF_HEAD):
            self._is_pipelined = True
            self._send_end(data)

    def _follow_request(self, data: bytes, total: int, start: int = 0) -> None:
        """on_chunks: what is behind their end is captured, unless a record has told of it; or what were no chunks."""
        chunks = self._request_chunks
        assert chunks is not None
        behind = chunks.feed(data[start:], total - len(data))
        self._is_untold = True
        if not chunks.has_ended:
            if not chunks.is_followed:
                self._request_chunks = None
            self._capture_after_all(data, total)
            return
        if not behind:
            return
        self._is_head_done[0], self._has_head_ended, self._is_pipelined = False, False, True
        self._captured[0] = 0
        end = total - len(behind)
        if end < self._told:
            self._request_chunks, end = None, self._told
        else:
            self._head_last[0] = b""
        if end < total:
            self._capture(Kind.REQUEST_MORE, OF_REQUEST, data, total, REQUEST_CAPTURE_BYTES, start=end)

    def _capture_after_all(self, data: bytes, total: int) -> None:
        if self._told or total != len(data):
            return
        if self._state != RESPONSE and self._captured[0] < self._wanted_request_bytes:
            self._capture(Kind.REQUEST_MORE, OF_REQUEST, data, total, REQUEST_CAPTURE_BYTES, start=0)
        elif self._state == RESPONSE:
            self._send_end(data)
        elif self._request_chunks is None and total >= 18 and data.endswith(END_OF_HEAD):
            self._is_pipelined = True
            self._send_end(data)

    def _send_end(self, data: bytes) -> None:
        self._flags |= RecordFlag.PAYLOAD_IS_END
        self._send(Kind.REQUEST_MORE, data[-LATE_CAPTURE_BYTES:], len(data))
        self._flags &= ~RecordFlag.PAYLOAD_IS_END

    def _move_response(self, data: bytes, total: int) -> None:
        if self._state == IDLE:
            return
        is_beginning = begins_like_response(data)
        if not self._bytes[1] and not is_beginning and not self._position:
            self.end(EndReason.NOT_HTTP, at_ms=self.now_ms)
            self._state = FOREIGN
            return
        if is_beginning and self._state == RESPONSE and self._is_end_untold:
            self._send(Kind.END, b"", 0, EndReason.NEXT_RESPONSE)
        self._count(OF_RESPONSE, total)
        self._tail = (self._tail + data)[-8:] if total == len(data) else bytes(8)
        status = data[9:12] if is_beginning else b""
        if not (status.startswith(b"1") and len(status) == 3 and status != b"101"):
            self._state = RESPONSE
        if is_beginning:
            self._captured[1], self._is_head_done[1], self._head_last[1] = 0, False, b""
            self._chunks = None
        elif self._chunks is not None:
            self._follow_response(data, total - len(data))
        if (not self._is_head_done[1] or self._is_pipelined) and self._captured[1] < MAX_HEAD_BYTES:
            limit = REQUEST_CAPTURE_BYTES if self._captured[1] else RESPONSE_CAPTURE_BYTES
            self._capture(Kind.RESPONSE, OF_RESPONSE, data, total, limit)
        if status == b"101":
            self._state = FOREIGN

    def _follow_response(self, data: bytes, uncopied: int = 0) -> None:
        assert self._chunks is not None
        if self._chunks.feed(data, uncopied) or (uncopied and self._chunks.has_ended):
            self._chunks.is_followed = False

    def _count(self, direction: int, total: int) -> None:
        self._bytes[direction] += total
        self._last_ns[direction] = self.now_ms * MS
        self._is_untold = True

    def _capture(
        self, kind: Kind, direction: int, data: bytes, total: int, limit: int, *, start: int | None = None
    ) -> None:
        """send_report, and on_heads where the bytes do not end with the end of a head. `start`: on_heads, from there on."""
        offset = start or 0
        block, chunks_at = data[offset : offset + limit], -1
        while True:
            left = total - offset - len(block)
            ends_so = start is None and not offset and block.endswith(END_OF_HEAD)
            head_end = len(block) if ends_so else self._end_of_head(direction, block)
            rest = block[head_end:]
            is_another = bool(head_end and rest) and (begins_like_request, begins_like_response)[direction](rest)
            if is_another and direction == OF_REQUEST:
                self._is_pipelined = True
            known_end = self._is_head_done[1] if direction else self._has_head_ended
            goes_on = is_another or self._is_pipelined or not (head_end or known_end)
            is_more = (
                not ends_so and goes_on and block and left and self._captured[direction] + len(block) < MAX_HEAD_BYTES
            )
            has_ended = bool(head_end) and not is_another
            is_first = direction == OF_REQUEST and not (self._is_head_done[0] or self._has_head_ended)
            is_all = head_end == len(block) and not left
            is_followed = has_ended and is_first and not is_all and (not rest or is_size(rest))
            untold = left if is_more or (is_followed and not ends_so) else 0
            self._captured[direction] += len(block)
            self._send(kind, block, total - offset - untold, left=untold, of=direction)
            self._told = total - untold
            self._is_untold = bool(untold)
            if direction == OF_REQUEST and self._request_chunks is not None and self._request_chunks.has_ended:
                self._request_chunks = None
            if has_ended:
                is_followed = is_followed and self._request_chunks is None
                if is_first and is_all and self._request_chunks is None:
                    self._is_body_awaited = True
                if is_followed:
                    self._request_chunks, chunks_at = Chunks(), offset + head_end
                if direction == OF_RESPONSE or ends_so or is_all:
                    self._is_head_done[direction] = True
                    if direction == OF_RESPONSE and self._chunks is None:
                        self._chunks = Chunks()
                        self._follow_response(data[offset + head_end :])
                else:
                    self._has_head_ended = True
            if not is_more:
                if chunks_at >= 0:
                    self._follow_request(data, total, chunks_at)
                return
            offset += len(block)
            block = data[offset : offset + REQUEST_CAPTURE_BYTES]
            kind = Kind.REQUEST_MORE if kind == Kind.REQUEST else kind

    def _end_of_head(self, direction: int, block: bytes) -> int:
        last = self._head_last[direction]
        self._head_last[direction] = (last + block)[-4:]
        found = (last + block).find(END_OF_HEAD)
        return found + 4 - len(last) if found >= 0 and found + len(last) else 0

    def _send(
        self, kind: Kind, payload: bytes, total: int, reason: EndReason = EndReason.NONE, *, left: int = 0, of: int = 0
    ) -> None:
        """`left` bytes of the call are told of by a later record."""
        self._is_untold = False
        counted = [self._bytes[0] - (left if of == OF_REQUEST else 0), self._bytes[1] - (left if of else 0)]
        chunks, of_chunks, chunks_ended = self._request_chunks, (0, 0), 0
        if kind != Kind.REQUEST and chunks is not None and chunks.has_ended:
            of_chunks, chunks_ended = (chunks.payload_bytes, chunks.wire_bytes), RecordFlag.REQUEST_CHUNKS_ENDED
        unsent, response_last_ns = self._response_end
        record = Record(
            kind,
            self.lost,
            self.role,
            2,
            reason,
            self._flags | self._chunk_flags | unsent | chunks_ended,
            len(payload),
            41,
            42,
            40,
            self._position,
            7,
            self.now_ms * MS,
            *counted,
            self._last_ns[0],
            response_last_ns,
            total,
            8080,
            50000,
            bytes([127, 0, 0, 1]) + bytes(12),
            bytes([127, 0, 0, 1]) + bytes(12),
            self._tail,
            self._chunk_payload_bytes,
            *of_chunks,
            *NO_PARENT[2:],
            payload,
        )
        self.records.append(record)
        self.exchanges += self.assembler.feed(record)
