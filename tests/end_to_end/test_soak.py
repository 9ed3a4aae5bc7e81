"""Short forms of `make soak`: the same runs for seconds, with bounds so small that they are met."""

from pathlib import Path

from tests.soak.runs import outage, steady


def test_steady_load_over_thousands_of_paths_loses_nothing(tmp_path: Path) -> None:
    outcome = steady(tmp_path, 10, per_second=2000, paths=5000)

    assert outcome.is_whole, list(outcome.lines())
    assert {} == outcome.accounts.losses
    assert 20_000 == outcome.arrived


def test_outage_with_a_spool_loses_nothing_keeps_the_order_and_needs_no_memory(tmp_path: Path) -> None:
    """34,000 spans are 15 MB; the queue may hold 2."""
    outcome = outage(tmp_path, 12, per_second=2000, has_spool=True, OTEL_EBPF_QUEUE_BYTES="2MiB")

    assert outcome.is_whole, list(outcome.lines())
    assert {} == outcome.accounts.losses
    assert 34_000 == outcome.arrived
    assert outcome.memory_at(0.6) - outcome.memory_at(0.1) < 10, list(outcome.lines())


def test_outage_without_a_spool_drops_the_oldest_exactly_counted(tmp_path: Path) -> None:
    outcome = outage(tmp_path, 5, per_second=2000, has_spool=False, OTEL_EBPF_QUEUE_BYTES="1MiB")

    assert outcome.is_whole, list(outcome.lines())
    assert ["dropped"] == list(outcome.accounts.losses)
    assert outcome.sent == outcome.arrived + outcome.dropped
