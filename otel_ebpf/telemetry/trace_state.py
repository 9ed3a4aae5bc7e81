"""The `ot` member of tracestate: how likely a span was kept (consistent probability sampling, OTEP 235).

In:   a tracestate that validate_tracestate has let through; a trace id; a probability
Out:  56 bits of randomness, a threshold, the tracestate that says so
Owns: nothing

A span is kept when its trace's randomness is not below the threshold `th`; 2**56 / (2**56 - th) is how many it stands for.
Members of others stay as they are, and so do the other parts of `ot`.
"""

import re

from otel_ebpf.telemetry.trace_context import TRACESTATE_LIMIT_BYTES, TRACESTATE_LIMIT_MEMBERS

NEVER = 1 << 56  # the threshold that no randomness reaches
_PRECISION_DIGITS = 4  # the specification's advice, behind the leading fs
_ALL_DIGITS = 14
_OT_LIMIT_BYTES = 256
_RANDOM_BYTES = 9  # the last seven of sixteen: Trace Context level 2

_RANDOMNESS = re.compile(rb"(?:^|,)[ \t]*ot=(?:[^,;]*;)*rv:([0-9a-f]{14})(?=[;, \t]|$)")


def randomness_of(trace_id: bytes, tracestate: bytes | None) -> int:
    """What all who decide on this trace compare: the explicit `rv`, else the end of the trace id."""
    if tracestate is not None and b"rv:" in tracestate:
        explicit = _RANDOMNESS.search(tracestate)
        if explicit is not None:
            return int(explicit[1], 16)
    return int.from_bytes(trace_id[_RANDOM_BYTES:], "big")


def threshold_of(probability: float) -> int:
    """Rounded to four digits, so that it is short; the decision and the weight both use the rounded one."""
    exact = NEVER - round(probability * NEVER)
    leading = _ALL_DIGITS - len(f"{NEVER - exact:x}")  # digits that are f
    shift = 4 * max(0, _ALL_DIGITS - leading - _PRECISION_DIGITS)
    rounded = (exact + (1 << shift >> 1)) >> shift << shift
    return exact if rounded >= NEVER else rounded


def with_threshold(tracestate: bytes, threshold: int) -> bytes:
    """`tracestate` with `th` in its `ot` member."""
    others, parts = [], []
    for member in tracestate.split(b",") if tracestate else ():
        key, _, value = member.partition(b"=")
        if key == b"ot":
            parts = [part for part in value.split(b";") if part and not part.startswith(b"th:")]
        else:
            others.append(member)
    # What matters most stands first, since what is too much goes from the end.
    parts.sort(key=lambda part: not part.startswith(b"rv:"))
    parts.insert(0, b"th:" + (b"%014x" % threshold).rstrip(b"0") if threshold else b"th:0")
    while len(b";".join(parts)) > _OT_LIMIT_BYTES:
        del parts[-1]
    # A value does not end with a space, which may have stood before a part that is gone.
    return _within_limits([b"ot=" + b";".join(parts).rstrip(b" ;"), *others])


def _within_limits(members: list[bytes]) -> bytes:
    """Section 3.3.1.5 of Trace Context: what is changed stands first, what is too much goes from the end, long ones first."""
    del members[TRACESTATE_LIMIT_MEMBERS:]
    for least_bytes in (128, 0):
        for index in range(len(members) - 1, 0, -1):
            if sum(map(len, members)) + len(members) - 1 <= TRACESTATE_LIMIT_BYTES:
                return b",".join(members)
            if len(members[index]) > least_bytes:
                del members[index]
    return b",".join(members)
