"""traceparent and tracestate: none, or one that a strict reader of W3C Trace Context takes."""

import re

from otel_ebpf.telemetry.trace_context import (
    KNOWN_FLAGS,
    TRACESTATE_LIMIT_BYTES,
    TRACESTATE_LIMIT_MEMBERS,
    parse_traceparent,
    validate_tracestate,
)
from otel_ebpf.telemetry.trace_state import randomness_of, with_threshold

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY = re.compile(rb"[a-z0-9][a-z0-9_\-*/@]{0,255}")


def fuzz(data: bytes) -> None:
    _check_parent(data)
    state = validate_tracestate(data)
    if state is not None:
        assert state == validate_tracestate(state), "what is passed on is passed on"
        members = [member.partition(b"=") for member in state.split(b",")]
        assert 0 < len(members) <= 32
        assert len({key for key, _, _ in members}) == len(members)
        assert all(_KEY.fullmatch(key) and value and not value.endswith(b" ") for key, _, value in members)
        assert state.isascii()
        assert len(state) <= len(data)
        _check_weight(state)


def _check_weight(state: bytes) -> None:
    """What a sampler puts in leaves a tracestate that is passed on, and the others' members as they were."""
    weighted = with_threshold(state, 0xE666 << 40)
    assert weighted == validate_tracestate(weighted)
    assert weighted.startswith(b"ot=th:e666")
    others = [member for member in state.split(b",") if not member.startswith(b"ot=")]
    kept = weighted.split(b",")[1:]
    assert kept == [member for member in others if member in kept]
    assert others == kept or len(state) > TRACESTATE_LIMIT_BYTES - 20 or len(others) == TRACESTATE_LIMIT_MEMBERS
    assert randomness_of(bytes(16), state) == randomness_of(bytes(16), weighted)


def _check_parent(data: bytes) -> None:
    """An expression written after section 3.2 is the oracle."""
    context = parse_traceparent(data)
    match = _TRACEPARENT.fullmatch(data.strip(b" \t"))
    is_valid = (
        match is not None
        and match[1] != b"ff"
        and not (match[1] == b"00" and match[5])
        and match[2].strip(b"0") != b""
        and match[3].strip(b"0") != b""
    )
    assert is_valid == (context is not None)
    if match is not None and context is not None:
        expected = (match[2].decode(), match[3].decode(), int(match[4], 16) & KNOWN_FLAGS)
        assert expected == (context.trace_id.hex(), context.parent_span_id.hex(), context.flags)
