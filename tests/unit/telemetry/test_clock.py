"""Kernel time to wall-clock time."""

from otel_ebpf.telemetry.clock import offset_ns, unix_ns


def test_offset_takes_monotonic_time_to_the_wall_clock():
    offset = offset_ns(monotonic_now_ns=5_000, unix_now_ns=1_700_000_000_000_005_000)

    assert 1_700_000_000_000_007_000 == unix_ns(7_000, offset)


def test_times_stay_within_a_fixed64():
    """OTLP cannot hold more; a wrong clock must not cost a batch."""
    assert 0 == unix_ns(5, -10)
    assert 2**64 - 1 == unix_ns(2**64 - 1, 10)
