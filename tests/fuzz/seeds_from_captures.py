"""Inputs that come from elsewhere in the tests: what the kernel said once, made again for each run.

In:   tests/captures, examples of the unit tests
Out:  the first inputs of a target
Owns: nothing
"""

import io
import json
from collections.abc import Callable, Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_ebpf.records.decode import DecodeError, decode_record
from otel_ebpf.records.frames import CounterReading, Hooks, LedgerReading, ServiceIdentity, Shutdown, encode_frame
from otel_ebpf.records.recording import Entry, EntryKind, RecordingReader
from tests.captures.replaying import CAPTURES
from tests.unit.test_status_text import DOCUMENT

_LARGEST_RECORDING_BYTES = 6000


def first_seeds(name: str) -> Iterator[bytes]:
    make: Callable[[], Iterator[bytes]] | None = _MADE.get(name)
    return iter(()) if make is None else make()


def _recordings() -> Iterator[bytes]:
    for path in sorted(CAPTURES.glob("*.recording")):
        if path.stat().st_size < _LARGEST_RECORDING_BYTES:
            yield path.read_bytes()


def _entries() -> Iterator[Entry]:
    for recording in _recordings():
        yield from RecordingReader(io.BytesIO(recording)).entries()


def _samples() -> Iterator[bytes]:
    for entry in _entries():
        if entry.kind is EntryKind.SAMPLE:
            yield b"\0\0" + entry.payload
        elif entry.kind is EntryKind.SLOT:
            yield b"\0\0" + entry.payload[4:]


def _streams() -> Iterator[bytes]:
    """What was captured of each call, as a request and as a response, cut in none and in three places."""
    for sample in _samples():
        try:
            payload = decode_record(sample, 2, len(sample) - 2).payload
        except DecodeError:
            continue
        if payload:
            begin = 0 if payload.startswith(b"HTTP") else 1
            yield bytes((begin, 0)) + bytes(8) + payload
            yield bytes((begin, 0, 3, 20, 0, 40, 0, 80, 0, 0)) + payload


def _frames() -> Iterator[bytes]:
    identity = ServiceIdentity(7, 8, b"x", b"/x", (b"x",), {"OTEL_SERVICE_NAME": b"x"}, b"/", "", (80,), "root")
    yield from map(
        encode_frame,
        (identity, CounterReading((1, 2)), LedgerReading(((7, 1, 5),)), Hooks("raw tracepoint"), Shutdown("end", 1)),
    )


def _parents() -> Iterator[bytes]:
    yield b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    yield b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"
    yield b"ot=th:c;rv:0123456789abcd;x:y,rojo=1"
    yield b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE, a@b=1"


def _header_lines() -> Iterator[bytes]:
    yield b"X-Tag: a\r\nx-tag:b\r\n folded\r\nCookie: a=b\r\nReferer: http://me:pw@host/?token=1&a=2#session=3\r\n\r\n"
    yield b"Set-Cookie: a=b; Path=/\nLocation: /next?code=1\n\n"


def _texts() -> Iterator[bytes]:
    for limit in (3, 5, 200):
        yield bytes((limit, 0)) + "aä€😀".encode() + b"\xe2\x82\xff\xf0\x9f"


def _documents() -> Iterator[bytes]:
    yield json.dumps(DOCUMENT).encode()


def _answers() -> Iterator[bytes]:
    refused = ExportTraceServiceResponse()
    refused.partial_success.rejected_spans = 3
    refused.partial_success.error_message = "no"
    for date in (b"120", b"Wed, 21 Oct 2015 07:28:00 GMT", b"Sunday, 06-Nov-94 08:49:37 +0100"):
        for status in (0, 6):
            yield bytes((status, 2)) + b"no" + bytes((len(date),)) + date + b"\0" + refused.SerializeToString()


_MADE: dict[str, Callable[[], Iterator[bytes]]] = {
    "decode": _samples,
    "frames": _frames,
    "recording": _recordings,
    "http1": _streams,
    "trace_context": _parents,
    "headers": _header_lines,
    "text": _texts,
    "answers": _answers,
    "status": _documents,
}
