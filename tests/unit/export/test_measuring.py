"""What a real pipeline gives to those who measure, and who that is."""

from typing import Any

import pytest

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.replay import SpanFile
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.records.frames import LedgerClosed
from otel_ebpf.telemetry.attributes import KNOWN_METHODS
from otel_ebpf.telemetry.metrics import Meter, Series
from tests.unit.export.measurements import NS, metrics_settings
from tests.unit.export.test_accounts import Agent

OTLP: Any = object()  # where it leads is of no account here


def measuring(otlp: Any = None, **settings: Any) -> Measuring:
    return Measuring(metrics_settings(otlp, **settings), KNOWN_METHODS)


def meter_of(measuring: Measuring) -> Meter:
    (meter,) = measuring.meters
    return meter


def snapshot(agent: Agent) -> Snapshot:
    assert agent.pipeline.measuring is not None
    return agent.pipeline.snapshot(meter_of(agent.pipeline.measuring))


def only_series(agent: Agent) -> Series:
    (service,) = snapshot(agent).services.values()
    (series,) = service.roles[Role.SERVER].values()
    return series


@pytest.mark.parametrize(("sampler", "exemplars"), [("always_on", 1), ("always_off", 0)])
def test_every_exchange_is_measured_and_only_spans_that_are_kept_are_named(sampler: str, exemplars: int) -> None:
    agent = Agent(sampler, SpanFile(), measuring())
    agent.name(7, b"shop")
    for connection in range(5):
        agent.exchange(connection, 7)
    agent.pipeline.tick(0)
    series = only_series(agent)

    assert (5, exemplars) == (series.duration.count, len(series.duration.exemplars))


def test_spans_that_go_nowhere_are_no_exemplars() -> None:
    agent = Agent(sink=None, measuring=measuring())
    agent.name(7, b"shop")
    agent.exchange(1, 7)
    agent.pipeline.tick(0)

    assert {} == only_series(agent).duration.exemplars


def test_exemplars_can_be_turned_off() -> None:
    agent = Agent(sink=SpanFile(), measuring=measuring(exemplar_filter="always_off"))
    agent.name(7, b"shop")
    agent.exchange(1, 7)
    agent.pipeline.tick(0)

    assert {} == only_series(agent).duration.exemplars


def test_an_exchange_that_waits_for_its_service_is_measured_once_and_under_that() -> None:
    agent = Agent(sink=SpanFile(), measuring=measuring())
    agent.samples.now_ns = 0
    agent.samples.begin_tick = lambda: agent.samples.now_ns  # type: ignore[method-assign]
    agent.exchange(1, 7)
    agent.pipeline.tick(0)
    assert {} == snapshot(agent).services

    agent.name(7, b"shop")
    agent.pipeline.tick(0)
    (service,) = snapshot(agent).services.values()
    assert "shop" == service.attributes["service.name"]
    assert 1 == only_series(agent).duration.count


def test_requests_in_flight_are_those_that_have_not_ended() -> None:
    agent = Agent(sink=SpanFile(), measuring=measuring(http=("active_requests",)))
    agent.name(7, b"shop")
    agent.exchange(1, 7)
    agent.exchange(2, 7, is_answered=False)
    agent.pipeline.tick(0)

    (active,) = snapshot(agent).active
    assert (1, "shop") == (active.count, active.resource_attributes["service.name"])


def test_the_account_of_a_service_outlives_it_as_long_as_its_series() -> None:
    agent = Agent(sink=SpanFile(), measuring=measuring(ttl_ns=300 * NS))
    agent.name(7, b"shop")
    agent.exchange(1, 7)
    agent.kernel(7, began=1)
    agent.pipeline.tick(0)
    agent.pipeline.take_frame(LedgerClosed(7))

    (standing,) = snapshot(agent).standings
    assert ("shop", 1, 1) == (standing.attributes["service.name"], standing.began, standing.results["span"])
    assert 1 == snapshot(agent).host.results["span"]  # type: ignore[union-attr]
    agent.samples.now_ns += 301 * NS
    agent.pipeline.tick(0)
    assert [] == snapshot(agent).standings


def test_one_aggregation_serves_both_unless_they_want_different_forms() -> None:
    shared = measuring(OTLP)
    assert shared.for_otlp is shared.for_prometheus
    assert 1 == len(shared.meters)
    for form in ({"temporality": "delta"}, {"temporality": "lowmemory"}, {"is_exponential": True}):
        apart = measuring(OTLP, **form)
        assert 2 == len(apart.meters)
        assert apart.for_prometheus is not None
        assert not apart.for_prometheus.options.is_delta
        assert not apart.for_prometheus.options.is_exponential


def test_nobody_asks_nobody_measures() -> None:
    assert [] == measuring(prometheus=None).meters


def test_a_series_is_told_before_it_is_forgotten() -> None:
    """However short the TTL."""
    assert 120 * NS == measuring(OTLP, ttl_ns=NS, interval_ms=60_000).ttl_ns
