"""Sends what has been measured to the collector, every interval, in a thread of its own.

In:   snapshots of the pipeline
Out:  OTLP requests, made by the official encoder and sent by the official exporter; messages, counts
Owns: the thread, the back-off, deltas that were not taken

An export that failed is not repeated: the next one says all that it would have said. Totals do by themselves; deltas that
were not delivered are added to those that follow, so nothing is lost by an outage but its resolution in time.
"""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_ebpf.config import MetricsSettings
from otel_ebpf.export.attempts import Attempt, Report, Result, try_again
from otel_ebpf.export.collector_state import CollectorState, SignalWords
from otel_ebpf.export.metrics_data import CUMULATIVE, DELTA, MetricsDataBuilder
from otel_ebpf.export.operations import Operations
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.sender import ABORT_SECONDS, back_off_seconds, make_transport
from otel_ebpf.export.signals import METRICS_SIGNAL
from otel_ebpf.export.snapshots import Desk, OwnMetrics, Snapshot, no_own_metrics
from otel_ebpf.otlp_settings import OtlpSettings
from otel_ebpf.telemetry.differences import Differences
from otel_ebpf.telemetry.metrics import Meter, ServiceSeries, merge

_SERIES_A_REQUEST = 500  # 0.2 MB, 2 MB with all that may be measured: gRPC servers refuse more than 4 MiB by default
_STANDINGS_A_REQUEST = 200  # of about eight points each
_PATIENCE_SECONDS = 10.0  # for the pipeline
_WORDS = SignalWords(
    "metrics",
    "what is measured meanwhile is sent then.",
    "If it is for traces alone, set OTEL_METRICS_EXPORTER=none.",
)


class MetricsSender:
    """Made while files can be read, started after rights were dropped, as the sender of spans."""

    def __init__(
        self,
        settings: MetricsSettings,
        otlp: OtlpSettings,
        meter: Meter,
        desk: Desk,
        version: str,
        report: Report,
        own_metrics: OwnMetrics = no_own_metrics,
    ) -> None:
        self.meter = meter
        self.operations = Operations()
        self.exported = 0  # data points
        self.rejected = 0
        self.failed_exports = 0
        self.lost_series = 0  # of deltas that found no room while nothing was taken
        self.otlp = otlp
        self._interval_seconds = settings.interval_ms / 1000
        self._desk = desk
        self._report = report
        self._own_metrics = own_metrics
        self._builder = MetricsDataBuilder(version, time.time_ns())
        self._state = CollectorState(otlp.endpoint_for_people, _WORDS)
        self._transport = make_transport(otlp, METRICS_SIGNAL)
        self._thread = threading.Thread(target=self._run, name="metrics-sender", daemon=True)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._last: Snapshot | None = None
        self._since_unix_ns = 0
        self._pending: dict[bytes, ServiceSeries] = {}  # deltas
        # `lowmemory` wants totals of what is counted all the time anyway.
        self._differences = Differences() if settings.temporality == "delta" else None
        self._failures_in_row = 0
        self._retry_after_seconds: float | None = None

    @property
    def collector_state(self) -> str:
        return self._state.last

    def start(self) -> None:
        self._transport.start()
        self._thread.start()

    def own_endpoints(self) -> frozenset[Endpoint]:
        return self._transport.own_endpoints()

    def begin_stop(self, last: Snapshot, deadline_seconds: float) -> None:
        """`last` is sent, as far as the time allows."""
        self._last = last
        self._deadline = time.monotonic() + deadline_seconds
        self._stopping.set()

    def join(self) -> None:
        """Returns within the deadline and a fraction."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
            if self._thread.is_alive():
                self._transport.abort()
                self._thread.join(ABORT_SECONDS)
        self._transport.close()

    def _run(self) -> None:
        # Agents that are started together do not export together.
        due = time.monotonic() + self._interval_seconds * random.uniform(0.9, 1.0)
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            snapshot = self._desk.ask(self.meter, _PATIENCE_SECONDS)
            again_seconds = self._interval_seconds
            if snapshot is not None and not self._export(snapshot):
                again_seconds = min(again_seconds, back_off_seconds(self._failures_in_row, self._retry_after_seconds))
            due = max(due + again_seconds, time.monotonic() + again_seconds / 2)
        if self._last is not None:
            self._export(self._last)

    def _export(self, snapshot: Snapshot) -> bool:
        """False when the collector is to be tried again before the interval is over."""
        is_delta = self.meter.options.is_delta
        if is_delta:
            pending, self._pending = self._pending, {}
            self.lost_series += merge(pending, snapshot.services)
            snapshot = replace(snapshot, services=pending)
        temporality, differences = DELTA if is_delta else CUMULATIVE, self._differences
        if differences is not None:
            differences.begin_export()
        own = self._own_metrics(snapshot, differences)
        attempt = Attempt(Result.DELIVERED)
        for part in _parts(snapshot):
            if attempt.result is not Result.TRY_AGAIN:
                data = self._builder.build(part, temporality, self._since_unix_ns, own, differences)
                attempt = self._send(encode_metrics(data))
                own = []
                if differences is not None and attempt.result is Result.TRY_AGAIN:
                    differences.were_not_taken()
                elif differences is not None:
                    differences.were_taken()
            if attempt.result is Result.TRY_AGAIN and is_delta:
                self.lost_series += merge(self._pending, part.services)
        message = self._state.message(attempt, time.monotonic(), 0)
        if message:
            self._report(message)
        if attempt.result is Result.TRY_AGAIN:
            self._failures_in_row += 1
            self._retry_after_seconds = attempt.retry_after_seconds
            return False
        self._failures_in_row = 0
        self._since_unix_ns = snapshot.at_unix_ns
        return True

    def _send(self, request: ExportMetricsServiceRequest) -> Attempt:
        left = self._deadline - time.monotonic()
        if left <= 0:
            return try_again("the agent ends")
        body, most_seconds = request.SerializeToString(), min(self.otlp.timeout_ms / 1000, max(0.05, left))
        attempt = self.operations.timed(lambda: self._transport.attempt(body, most_seconds))
        points = count_points(request)
        if attempt.result is Result.DELIVERED:
            rejected = min(attempt.rejected, points)
            self.rejected += rejected
            self.exported += points - rejected
        elif attempt.result is Result.TRY_AGAIN:
            self.failed_exports += 1
        else:
            self.rejected += points
        return attempt


def count_points(request: ExportMetricsServiceRequest) -> int:
    return sum(
        len(getattr(metric, kind).data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if (kind := metric.WhichOneof("data")) is not None
    )


def _parts(snapshot: Snapshot) -> Iterator[Snapshot]:
    """The same in pieces of a bounded size; at least one, for what the agent says of itself."""
    while len(snapshot.standings) > _STANDINGS_A_REQUEST:
        standings, left = snapshot.standings[:_STANDINGS_A_REQUEST], snapshot.standings[_STANDINGS_A_REQUEST:]
        yield replace(snapshot, services={}, active=[], standings=standings)
        snapshot = replace(snapshot, standings=left)
    while len(snapshot.active) > _SERIES_A_REQUEST:
        active, others = snapshot.active[:_SERIES_A_REQUEST], snapshot.active[_SERIES_A_REQUEST:]
        yield replace(snapshot, services={}, active=active, standings=[])
        snapshot = replace(snapshot, active=others)
    services: dict[bytes, ServiceSeries] = {}
    count = 0
    for resource, service in snapshot.services.items():
        for role, of_role in service.roles.items():
            for attributes, series in of_role.items():
                if count == _SERIES_A_REQUEST:
                    yield replace(snapshot, services=services)
                    snapshot, services, count = replace(snapshot, active=[], standings=[]), {}, 0
                if resource not in services:
                    services[resource] = ServiceSeries(service.attributes)
                services[resource].roles[role][attributes] = series
                count += 1
    yield replace(snapshot, services=services)
