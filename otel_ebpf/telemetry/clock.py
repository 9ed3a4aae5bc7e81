"""Kernel time to wall-clock time.

In:   CLOCK_MONOTONIC nanoseconds, and how far that clock is behind the wall clock
Out:  Unix nanoseconds
Owns: nothing

The caller measures the offset; that it is one number a span keeps durations exact when the wall clock is set.
"""

LAST_UNIX_NS = 2**64 - 1  # OTLP times are fixed64


def unix_ns(monotonic_ns: int, offset_ns: int) -> int:
    """The wall-clock time of a kernel time, within what OTLP can hold."""
    found = monotonic_ns + offset_ns
    return found if 0 <= found <= LAST_UNIX_NS else 0 if found < 0 else LAST_UNIX_NS


def offset_ns(monotonic_now_ns: int, unix_now_ns: int) -> int:
    """The offset for `unix_ns`, from both clocks read at one moment."""
    return unix_now_ns - monotonic_now_ns
