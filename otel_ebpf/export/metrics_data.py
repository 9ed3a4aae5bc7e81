"""Snapshots to MetricsData, the form in which the metrics SDK's exporters and encoders take metrics.

In:   Snapshot
Out:  MetricsData, made by the SDK's public classes
Owns: the names of the HTTP metrics, by the semantic conventions; the Resources that were made last
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import ExponentialHistogram as SdkExponentialHistogram
from opentelemetry.sdk.metrics.export import Histogram as SdkHistogram
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.export.otlp import SCHEMA_URL, SCOPE_NAME
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.export.standings import metrics_of_standing
from otel_ebpf.export.sums import Period
from otel_ebpf.telemetry.differences import Differences
from otel_ebpf.telemetry.histograms import ExplicitHistogram, Histogram
from otel_ebpf.telemetry.metrics import NS_PER_SECOND, Series, ServiceSeries
from otel_ebpf.telemetry.resource import AttributeValue

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
_LATE_NS = 2 * NS_PER_SECOND  # an exchange may end so long before it is measured; its exemplar is then told twice
Point = HistogramDataPoint | ExponentialHistogramDataPoint


class Instrument(NamedTuple):
    role: Role
    field: str  # of Series
    name: str
    unit: str
    per_unit: int  # of the whole numbers that are measured
    description: str


INSTRUMENTS = tuple(
    Instrument(role, field, f"http.{side}.{name}", unit, per_unit, text.format(side))
    for role, side in ((Role.SERVER, "server"), (Role.CLIENT, "client"))
    for field, name, unit, per_unit, text in (
        ("duration", "request.duration", "s", NS_PER_SECOND, "Duration of HTTP {} requests."),
        ("request_size", "request.body.size", "By", 1, "Size of HTTP {} request bodies."),
        ("response_size", "response.body.size", "By", 1, "Size of HTTP {} response bodies."),
    )
)
ACTIVE_NAMES = {
    Role.SERVER: ("http.server.active_requests", "Number of active HTTP server requests."),
    Role.CLIENT: ("http.client.active_requests", "Number of active HTTP requests."),
}


class MetricsDataBuilder:
    def __init__(self, version: str, start_unix_ns: int) -> None:
        """`start_unix_ns`: when the agent began to look."""
        self._start_unix_ns = start_unix_ns
        self._scope = InstrumentationScope(SCOPE_NAME, version, SCHEMA_URL)
        self._resources: dict[bytes, Resource] = {}

    def build(
        self,
        snapshot: Snapshot,
        temporality: AggregationTemporality,
        since_unix_ns: int,
        others: Iterable[ResourceMetrics] = (),
        differences: Differences | None = None,
    ) -> MetricsData:
        """`since_unix_ns`: when the last data was built; exemplars from before have been told.

        `differences`: for counters that are wanted as such.
        """
        metrics: dict[bytes, list[Metric]] = {}
        attributes: dict[bytes, Mapping[str, AttributeValue]] = {}
        for resource, service in snapshot.services.items():
            attributes[resource] = service.attributes
            metrics[resource] = _histograms(snapshot, service, temporality, since_unix_ns)
        active: dict[tuple[bytes, Role], list[NumberDataPoint]] = {}
        for found in snapshot.active:
            attributes[found.resource] = found.resource_attributes
            point = NumberDataPoint(dict(found.attributes), self._start_unix_ns, snapshot.at_unix_ns, found.count)
            active.setdefault((found.resource, found.role), []).append(point)
        for (resource, role), points in active.items():
            name, description = ACTIVE_NAMES[role]
            data = Sum(points, CUMULATIVE, is_monotonic=False)
            metrics.setdefault(resource, []).append(Metric(name, description, "{request}", data))
        for standing in snapshot.standings:
            attributes[standing.resource] = standing.attributes
            period = Period(self._start_unix_ns, snapshot.at_unix_ns, standing.resource, differences)
            metrics.setdefault(standing.resource, []).extend(metrics_of_standing(standing, period))
        self._resources = {
            resource: self._resources.get(resource) or Resource(of_resource, SCHEMA_URL)
            for resource, of_resource in attributes.items()
        }
        of_services = [
            ResourceMetrics(self._resources[resource], [ScopeMetrics(self._scope, found, SCHEMA_URL)], SCHEMA_URL)
            for resource, found in metrics.items()
        ]
        return MetricsData([*of_services, *others])


def _histograms(
    snapshot: Snapshot, service: ServiceSeries, temporality: AggregationTemporality, since_unix_ns: int
) -> list[Metric]:
    found = []
    for instrument in INSTRUMENTS:
        points: list[Point] = []
        for series in service.roles[instrument.role].values():
            histogram: Histogram | None = getattr(series, instrument.field)
            if histogram is not None and histogram.count:
                exemplars = _exemplars(snapshot, histogram, instrument.per_unit, since_unix_ns)
                points.append(_point(histogram, series, snapshot.at_unix_ns, instrument, exemplars))
        if points:
            is_explicit = isinstance(points[0], HistogramDataPoint)
            data = (SdkHistogram if is_explicit else SdkExponentialHistogram)(points, temporality)  # type: ignore[arg-type]
            found.append(Metric(instrument.name, instrument.description, instrument.unit, data))
    return found


def _point(histogram: Histogram, series: Series, now_unix_ns: int, of: Instrument, exemplars: list[Exemplar]) -> Point:
    count, total = histogram.count, histogram.total / of.per_unit
    least, greatest = histogram.least / of.per_unit, histogram.greatest / of.per_unit
    attributes, start_unix_ns = dict(series.attributes), series.start_unix_ns
    if isinstance(histogram, ExplicitHistogram):
        bounds = [bound / of.per_unit for bound in histogram.bounds]
        return HistogramDataPoint(
            attributes, start_unix_ns, now_unix_ns, count, total, histogram.buckets, bounds, least, greatest, exemplars
        )
    counts = [histogram.buckets.get(index, 0) for index in range(histogram.low, histogram.high + 1)]
    return ExponentialHistogramDataPoint(
        attributes,
        start_unix_ns,
        now_unix_ns,
        count,
        total,
        histogram.scale if histogram.buckets else 0,
        histogram.zeros,
        Buckets(histogram.low, counts) if histogram.buckets else Buckets(0, []),
        Buckets(0, []),
        0,
        least,
        greatest,
        exemplars,
    )


def _exemplars(snapshot: Snapshot, histogram: Histogram, per_unit: int, since_unix_ns: int) -> list[Exemplar]:
    return [
        Exemplar({}, value / per_unit, at_unix_ns, int.from_bytes(span_id, "big"), int.from_bytes(trace_id, "big"))
        for value, at_ns, (trace_id, span_id) in histogram.exemplars.values()
        if (at_unix_ns := at_ns + snapshot.offset_ns) >= since_unix_ns - _LATE_NS
    ]
