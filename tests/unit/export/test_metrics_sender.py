"""The sender of metrics against collectors that take them, and that do not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.metrics_sender import MetricsSender
from otel_ebpf.otlp_settings import OtlpSettings
from tests.unit.export.collectors import (
    OK,
    STALL,
    answer,
    free_port,
    grpc_collector,
    http_collector,
    partial_metrics,
    settings,
    wait_until,
)
from tests.unit.export.measurements import Measured, metrics_settings, plain, points_of
from tests.unit.telemetry.examples import exchange

DURATION = "http.server.request.duration"


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)


class Running:
    """A sender with a pipeline that only measures, in a thread of its own as in the agent."""

    def __init__(self, otlp: OtlpSettings, **changes: Any) -> None:
        settings = metrics_settings(otlp, prometheus=None, **{"interval_ms": 100, **changes})
        self.measured = Measured(settings)
        self.messages: list[str] = []
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        measuring = self.measured.measuring
        assert measuring.for_otlp is not None
        self.sender = MetricsSender(settings, otlp, measuring.for_otlp, measuring.desk, "1", self.messages.append)
        self._thread = threading.Thread(target=self._work)

    def start(self) -> None:
        self.sender.start()
        self._thread.start()

    def record(self, count: int, **changes: Any) -> None:
        with self._lock:
            self.measured.record(*[exchange(**changes)] * count)

    def stop(self, seconds: float = 30.0) -> None:
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.sender.begin_stop(self.measured.snapshot(self.sender.meter), seconds)
        self.sender.join()

    def _work(self) -> None:
        began = time.monotonic()
        while not self._is_over.wait(0.01):
            with self._lock:
                self.measured.begin_tick(time.monotonic() - began)
                self.measured.measuring.desk.serve(self.measured.snapshot)


@contextmanager
def measuring(otlp: OtlpSettings, is_started: bool = True, **changes: Any) -> Iterator[Running]:
    running = Running(otlp, **changes)
    if is_started:
        running.start()
    try:
        yield running
    finally:
        running.stop(0)


def counts(request: ExportMetricsServiceRequest) -> dict[int, int]:
    """How often each status was measured."""
    return {plain(point)["http.response.status_code"]: point.count for point in points_of(request).get(DURATION, [])}


def total(requests: list[ExportMetricsServiceRequest]) -> dict[int, int]:
    """The sum of differences."""
    found: dict[int, int] = {}
    for request in requests:
        for status, count in counts(request).items():
            found[status] = found.get(status, 0) + count
    return found


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_totals_arrive_every_interval_and_at_the_end(compression: str) -> None:
    with http_collector() as collector:
        with measuring(settings(collector.endpoint, compression=compression)) as own:
            own.record(3)
            wait_until(lambda: len([one for one in collector.received if counts(one.metrics())]) >= 3, "three exports")
            own.record(2, status=503)
            own.stop()

        assert {200: 3} == next(found for one in collector.received if (found := counts(one.metrics())))
        assert {200: 3, 503: 2} == counts(collector.received[-1].metrics())
        assert [] == own.messages
        assert own.sender.exported > 0


def test_totals_arrive_over_grpc() -> None:
    with grpc_collector() as collector, measuring(settings(collector.endpoint, protocol="grpc")) as own:
        own.record(3)
        wait_until(lambda: any(map(counts, collector.metrics.received)), "an export")
        own.record(1)
        own.stop()

        assert {200: 4} == counts(collector.metrics.received[-1])


def test_differences_add_up() -> None:
    """Each is told once, in intervals that touch."""
    with http_collector() as collector:
        with measuring(settings(collector.endpoint), temporality="delta") as own:
            for count in range(1, 6):
                exports = len(collector.received)
                own.record(count)
                wait_until(lambda exports=exports: len(collector.received) > exports + 1, "an export")
            own.stop()

        requests = [one.metrics() for one in collector.received]
        assert {200: 15} == total(requests)
        points = [point for request in requests for point in points_of(request).get(DURATION, [])]
        assert all(one.time_unix_nano <= other.start_time_unix_nano for one, other in pairwise(points))


def test_differences_outlive_an_outage() -> None:
    """What was refused for now is in the next that is taken, with its start; one message tells of it, one of the end."""
    with http_collector(*[answer("503 no")] * 4, OK) as collector:
        with measuring(settings(collector.endpoint), temporality="delta") as own:
            own.record(3)
            wait_until(lambda: len(collector.received) >= 2, "a failure")
            own.record(4, status=500)
            wait_until(lambda: len(own.messages) == 2, "it is taken again")
            own.record(1)
            own.stop()

        assert {200: 4, 500: 4} == total([one.metrics() for one in collector.received[4:]])
        assert "takes no metrics: 503 no. Trying again; what is measured meanwhile is sent then." in own.messages[0]
        assert "takes metrics again" in own.messages[1]
        assert 4 == own.sender.failed_exports


def test_a_collector_that_is_down_costs_totals_nothing() -> None:
    port = free_port()
    with measuring(settings(f"http://127.0.0.1:{port}/v1/metrics")) as own:
        own.record(3)
        wait_until(lambda: len(own.messages) == 1, "the complaint")
        with http_collector(port=port) as collector:
            own.record(4)
            wait_until(lambda: any(counts(one.metrics()) for one in collector.received), "an export")
            own.stop()

            assert {200: 7} == counts(collector.received[-1].metrics())


def test_a_collector_for_traces_alone_is_told_of_with_the_remedy() -> None:
    """404 is what a collector without a metrics pipeline says."""
    with http_collector(answer("404 Not Found")) as collector, measuring(settings(collector.endpoint)) as own:
        own.record(1)
        wait_until(lambda: len(collector.received) >= 3, "it is tried every interval")
        own.stop()

        (message,) = own.messages
        assert "refuses metrics: 404 Not Found" in message
        assert "OTEL_METRICS_EXPORTER=none" in message
        assert own.sender.rejected > 0


def test_partial_success_is_counted_and_told() -> None:
    some = answer("200 OK", partial_metrics(1, "too old").SerializeToString())
    with http_collector(some) as collector, measuring(settings(collector.endpoint), interval_ms=60_000) as own:
        own.record(1)
        own.record(1, status=500)
        own.stop()

        assert (1, 1) == (own.sender.exported, own.sender.rejected)
        assert "rejects metrics (1 of a batch): too old" in own.messages[0]


def test_many_series_go_in_several_requests() -> None:
    """A gRPC server refuses more than 4 MiB; each series is told exactly once."""
    with http_collector() as collector, measuring(settings(collector.endpoint), interval_ms=60_000) as own:
        for status in range(200, 1400):
            own.record(1, status=status)
        own.stop()

        assert [500, 500, 200] == [len(counts(one.metrics())) for one in collector.received]
        assert dict.fromkeys(range(200, 1400), 1) == total([one.metrics() for one in collector.received])


def test_the_end_does_not_wait_for_a_collector_that_is_silent() -> None:
    with http_collector(STALL) as collector:
        patient = settings(collector.endpoint, timeout_ms=3_600_000)
        with measuring(patient, interval_ms=60_000) as own:
            own.record(1)
            began = time.monotonic()
            own.stop(0.3)

            assert time.monotonic() - began < 60  # and not the hour of one attempt
            assert 0 == own.sender.exported


def test_a_sender_that_never_started_ends_at_once() -> None:
    with measuring(settings("http://127.0.0.1:1/v1/metrics"), is_started=False) as own:
        own.stop(5)

    assert [] == own.messages
