"""Trace and span ids: read from W3C headers, or made from an exchange's number.

In:   header bytes of the wire; connection and position of an exchange
Out:  TraceParent, a validated tracestate, (trace id, span id)
Owns: nothing

The headers come from anywhere, so parsing is strict: what is not exactly W3C Trace Context is no context at all.
Ids are a keyed hash, not random numbers: an exchange has them from its first byte, before a span exists, and a
recording replayed with the same seed has the same ids.
"""

import re
from binascii import unhexlify
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

FLAG_SAMPLED = 1
FLAG_RANDOM = 2  # Trace Context level 2: the last 7 bytes of the trace id are random
KNOWN_FLAGS = FLAG_SAMPLED | FLAG_RANDOM  # section 3.2.2.5: unknown flags are not passed on

TRACEPARENT_LENGTH_BYTES = 55
TRACESTATE_LIMIT_BYTES = 512  # section 3.3.1.5: at least this much is to be passed on
TRACESTATE_LIMIT_MEMBERS = 32

_STATE_KEY = rb"[a-z0-9][a-z0-9_*/@-]{0,255}"
_STATE_VALUE = rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_STATE_MEMBER = re.compile(rb"(" + _STATE_KEY + rb")=" + _STATE_VALUE)

_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)
_ONE_TRACE = bytes(15) + b"\x01"
_ONE_SPAN = bytes(7) + b"\x01"
_EXCHANGE_NUMBER = Struct("<QI")


class TraceParent(NamedTuple):
    """The remote context that a request carries."""

    trace_id: bytes  # 16
    parent_span_id: bytes  # 8
    flags: int


def parse_traceparent(header: bytes) -> TraceParent | None:
    """The context that a traceparent header names, or None when it names none.

    Version 00 is 55 bytes. A later version may append fields after another dash (section 3.2.4); ff is forbidden.
    """
    if len(header) != TRACEPARENT_LENGTH_BYTES:
        header = header.strip(b" \t")
        if len(header) < TRACEPARENT_LENGTH_BYTES:
            return None
    if header[2:3] != b"-" or header[35:36] != b"-" or header[52:53] != b"-":
        return None
    version = header[:2]
    digits = version + header[3:35] + header[36:52] + header[53:55]
    if digits != digits.lower() or version == b"ff":
        return None
    if len(header) > TRACEPARENT_LENGTH_BYTES and (version == b"00" or header[55:56] != b"-"):
        return None
    try:
        raw = unhexlify(digits)
    except ValueError:
        return None
    trace_id = raw[1:17]
    span_id = raw[17:25]
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceParent(trace_id, span_id, raw[25] & KNOWN_FLAGS)


def validate_tracestate(header: bytes) -> bytes | None:
    """The header as it may be passed on, or None: one bad member spoils all of it (section 3.3.1)."""
    if len(header) > TRACESTATE_LIMIT_BYTES:
        return None
    members = [member for member in (part.strip(b" \t") for part in header.split(b",")) if member]
    keys = set()
    for member in members:
        match = _STATE_MEMBER.fullmatch(member)
        if match is None or match[1] in keys:
            return None
        keys.add(match[1])
    return b",".join(members) if 0 < len(members) <= TRACESTATE_LIMIT_MEMBERS else None


class IdSource:
    """Makes the ids of exchanges from their numbers; the same seed gives the same ids."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: up to 64 secret bytes, so that ids of two runs never meet and cannot be foretold."""
        self._keyed = blake2b(key=seed, digest_size=24)

    def ids(self, connection: int, position: int) -> tuple[bytes, bytes]:
        """(trace id, span id), neither of them zero."""
        hashed = self._keyed.copy()
        hashed.update(_EXCHANGE_NUMBER.pack(connection, position & 0xFFFF_FFFF))
        digest = hashed.digest()
        trace_id = digest[:16]
        span_id = digest[16:]
        # All zero means "none" in W3C and OTLP. The chance is 2**-64, the harm a span that is refused.
        if trace_id == _NO_TRACE:
            trace_id = _ONE_TRACE
        if span_id == _NO_SPAN:
            span_id = _ONE_SPAN
        return trace_id, span_id
