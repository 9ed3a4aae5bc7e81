"""Overwrites what may be secret in the bytes of a connection, so that what is read of them stays the same.

In:   records of one connection and readings of its progress, as the assembler gets them
Out:  the captured bytes of each record, of the same length
Owns: a Run of its own for each connection, which tells heads from bodies

Kept are what line_mask.py keeps of heads, what chunk_mask.py keeps of chunks, and by what Run tells beginnings and ends where
nothing else does. Everything else becomes `x`, one for each byte. Bytes that are not HTTP become zeros, which are not HTTP either.
"""

import re

from otel_ebpf.exchanges.chunk_mask import ChunkMask
from otel_ebpf.exchanges.http1 import CHUNKED, NotHttpError, RequestHead, ResponseHead
from otel_ebpf.exchanges.line_mask import NOTHING, LineMask
from otel_ebpf.exchanges.memory import LOOK_EVERY_BYTES, MAX_KEPT_BYTES, runs_to_drop
from otel_ebpf.exchanges.reader import Message, Reader
from otel_ebpf.exchanges.readings import Readings
from otel_ebpf.exchanges.responses import BEGINS_LIKE_RESPONSE, END_OF_HEAD
from otel_ebpf.exchanges.run import Run
from otel_ebpf.records.kinds import EndReason, Kind, Record, RecordFlag
from otel_ebpf.records.progress import Progress

_MAX_CONNECTIONS = 65_536

_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_LAST_CHUNKS = (b"\r\n0\r\n\r\n", b"0\r\n\r\n", b"\r\n\r\n")  # what of a response's last bytes says that it has ended


class Masks:
    """All connections; those that have been silent for the longest are forgotten first."""

    def __init__(self, shown: frozenset[bytes] = NOTHING) -> None:
        self._shown = shown
        self._runs: dict[int, RunMask] = {}
        self._captured_bytes = 0  # since memory was looked at

    def feed(self, record: Record) -> bytes:
        """The payload as it may be seen."""
        self._captured_bytes += record.captured_bytes
        if self._captured_bytes > LOOK_EVERY_BYTES:
            self._captured_bytes = 0
            for large in runs_to_drop(self._runs.values(), MAX_KEPT_BYTES):
                del self._runs[large.connection]
        run = self._runs.get(record.connection)
        if record.kind == Kind.REQUEST and (run is None or not run.goes_on_with(record)):
            self._runs.pop(record.connection, None)
            if len(self._runs) >= _MAX_CONNECTIONS:
                del self._runs[next(iter(self._runs))]
            run = self._runs[record.connection] = RunMask(record, self._shown)
        if run is None or run.position != record.position:
            return bytes(len(record.payload))
        if record.kind == Kind.END:
            run.told(record)
            if record.reason not in (EndReason.NEXT_REQUEST, EndReason.NEXT_RESPONSE):
                del self._runs[record.connection]
            return bytes(len(record.payload))
        return run.feed(record)

    def advance(self, connection: int, progress: Progress, now_ns: int) -> None:
        run = self._runs.get(connection)
        if run is not None and run.position == progress.position:
            run.advance(progress, now_ns)


class RunMask:
    def __init__(self, first: Record, shown: frozenset[bytes]) -> None:
        self.connection = first.connection
        self._run = Run(first, 0)
        requests, responses = self._run.readers
        self._requests = DirectionMask(requests, shown)
        self._responses = DirectionMask(responses, shown)
        self._readings = Readings()
        self._is_http = True

    @property
    def kept_bytes(self) -> int:
        return self._run.kept_bytes + self._requests.kept_bytes + self._responses.kept_bytes

    @property
    def position(self) -> int:
        return self._run.position

    def goes_on_with(self, record: Record) -> bool:
        """As the assembler decides it."""
        self._run.before_next()
        if not self._is_http or not self._run.goes_on_with(record):
            return False
        self._run.go_on_with(record)
        self._readings = Readings()
        return True

    def told(self, record: Record) -> None:
        """The counts of a record that ends something."""
        self._run.advance(record)

    def feed(self, record: Record) -> bytes:
        payload, total_bytes = record.payload, record.total_bytes
        if not self._is_http:
            return bytes(len(payload))
        told = self._run.in_stream(record)
        if record.kind == Kind.RESPONSE:
            direction, end = self._responses, told.response_bytes
            if self._run.is_answer_out_of_turn(record):
                self._requests.forget_head()  # as Run does: it was answered before it was whole
        else:
            direction, end = self._requests, told.request_bytes
            if record.flags & RecordFlag.PAYLOAD_IS_END:
                total_bytes = len(payload)
        direction.begin(end - total_bytes, len(payload), record.at_monotonic_ns)
        try:
            self._run.feed(record)
        except NotHttpError:
            self._is_http = False
        masked = direction.mask(payload, self._is_http)
        if self._is_http and payload.endswith(END_OF_HEAD):  # by which Run tells what the kernel took for a head
            masked = masked[: -len(END_OF_HEAD)] + END_OF_HEAD
        beginning = BEGINS_LIKE_RESPONSE.match(payload) if record.kind == Kind.RESPONSE and self._is_http else None
        if beginning:
            masked = beginning[0] + masked[beginning.end() :]
        return masked

    def advance(self, progress: Progress, now_ns: int) -> None:
        believed = self._readings.believed(self._run, progress, now_ns)  # as the assembler does
        if believed is None:
            return
        progress = believed
        self._run.advance(progress)
        if not progress.ended:
            self._run.after_quiet(now_ns - progress.response_last_monotonic_ns)


class DirectionMask:
    """Looks at one reader before and after it was fed: by that, which bytes of the piece were what."""

    def __init__(self, reader: "Reader[RequestHead] | Reader[ResponseHead]", shown: frozenset[bytes]) -> None:
        self._reader = reader
        self._shown = shown
        self._seen_count = 0
        self._open: Message[RequestHead] | Message[ResponseHead] | None = None
        self._open_bytes = 0
        self._passed_bytes = 0  # of the piece in hand: told of by the progress table before
        self._end = 0  # behind the piece before
        self._chunks: ChunkMask | None = None  # of the message that is open
        self._head_bytes = 0  # of the head in pieces
        self._line = LineMask(True, shown)  # its last one
        self._is_start_line = True

    @property
    def kept_bytes(self) -> int:
        return self._line.kept_bytes + (0 if self._chunks is None else self._chunks.kept_bytes)

    def begin(self, offset: int, captured_bytes: int, at_ns: int) -> None:
        """A piece comes that belongs to `offset`."""
        self._reader.skip_to(offset, at_ns)
        self._passed_bytes = max(0, self._reader.offset - offset)
        if offset > self._end or self._passed_bytes:
            self.forget_head()
            self._chunks = None
        self._end = offset + captured_bytes
        self._seen_count = len(self._reader.messages)
        self._open = self._reader.open_message
        self._open_bytes = self._open.wire_bytes if self._open is not None else 0

    def mask(self, payload: bytes, is_http: bool) -> bytes:
        """The piece, after the reader was given it."""
        passed, payload = payload[: self._passed_bytes], payload[self._passed_bytes :]
        return b"x" * len(passed) + self._mask(payload, is_http)

    def _mask(self, payload: bytes, is_http: bool) -> bytes:
        masked = b""
        message = self._open
        if message is not None:
            body_bytes = message.wire_bytes - self._open_bytes if message.is_complete else len(payload)
            masked += self._mask_body(payload[:body_bytes])
        for message in self._reader.messages[self._seen_count :]:
            rest = payload[len(masked) :]
            head_bytes = message.head.length - self._head_bytes
            masked += self._mask_head(rest[:head_bytes])
            self.forget_head()
            self._chunks = ChunkMask() if message.framing == CHUNKED and not message.is_cut else None
            body_bytes = message.wire_bytes - message.head.length if message.is_complete else len(rest)
            masked += self._mask_body(rest[head_bytes : head_bytes + body_bytes])
        rest = payload[len(masked) :]
        if not is_http:
            return masked + bytes(len(rest))
        if self._reader.is_lost:
            return masked + b"x" * len(rest)
        self._head_bytes += len(rest)
        return masked + self._mask_head(rest)

    def forget_head(self) -> None:
        self._head_bytes = 0
        self._line = LineMask(True, self._shown)
        self._is_start_line = True

    def _mask_head(self, piece: bytes) -> bytes:
        masked = b""
        for part in _LINES.findall(piece):
            masked += self._line.feed(part)
            if part.endswith(b"\n"):
                self._is_start_line = self._is_start_line and self._line.is_empty
                self._line = LineMask(self._is_start_line, self._shown)
        return masked

    def _mask_body(self, piece: bytes) -> bytes:
        return b"x" * len(piece) if self._chunks is None else self._chunks.mask(piece)


def mask_tail(tail: bytes) -> bytes:
    """The last bytes of a response: the end of its last chunk is read, nothing else."""
    for last in _LAST_CHUNKS:
        if tail.endswith(last):
            return (b"x" * len(tail))[: -len(last)] + last
    return re.sub(rb"[^\0]", b"x", tail)
