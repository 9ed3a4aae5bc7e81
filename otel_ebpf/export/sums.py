"""Counts, states and durations of the agent itself as the metrics SDK's Sum, Gauge and Histogram.

In:   numbers, each with its attributes
Out:  Metric
Owns: nothing
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from otel_ebpf.telemetry.differences import Differences
from otel_ebpf.telemetry.histograms import ExplicitHistogram
from otel_ebpf.telemetry.metrics import NS_PER_SECOND

Labelled = tuple[Mapping[str, str | int], float]
CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA


class Period(NamedTuple):
    """From when to when, of which Resource, and whether totals or differences are wanted."""

    start_unix_ns: int
    now_unix_ns: int
    resource: bytes = b""
    differences: Differences | None = None


def counter(name: str, unit: str, description: str, numbers: Iterable[Labelled], period: Period) -> Metric:
    """What only grows."""
    points = []
    for attributes, value in numbers:
        start_unix_ns = period.start_unix_ns
        if period.differences is not None:
            key = period.resource, name, tuple(sorted(attributes.items()))
            value, start_unix_ns = period.differences.of(key, value, start_unix_ns, period.now_unix_ns)
        points.append(NumberDataPoint(attributes, start_unix_ns, period.now_unix_ns, value))
    temporality = CUMULATIVE if period.differences is None else DELTA
    return Metric(name, description, unit, Sum(points, temporality, is_monotonic=True))


def up_down_counter(name: str, unit: str, description: str, numbers: Iterable[Labelled], period: Period) -> Metric:
    """What can be added up and goes both ways; a total in every temporality, as the specification has it."""
    return Metric(name, description, unit, Sum(_points(numbers, period), CUMULATIVE, is_monotonic=False))


def gauge(name: str, unit: str, description: str, numbers: Iterable[Labelled], period: Period) -> Metric:
    return Metric(name, description, unit, Gauge(_points(numbers, period)))


def histogram(
    name: str, description: str, found: Iterable[tuple[Mapping[str, str | int], ExplicitHistogram]], period: Period
) -> Metric:
    """Of nanoseconds, told in seconds. Differences have no extremes: those of the interval are not known."""
    points = []
    for attributes, measured in found:
        start_unix_ns, buckets, total_ns = period.start_unix_ns, measured.buckets, float(measured.total)
        least: Any = measured.least / NS_PER_SECOND
        greatest: Any = measured.greatest / NS_PER_SECOND
        if period.differences is not None:
            key = period.resource, name, tuple(sorted(attributes.items()))
            now_unix_ns, of = period.now_unix_ns, period.differences.of
            buckets = [
                int(of((*key, index), count, start_unix_ns, now_unix_ns)[0]) for index, count in enumerate(buckets)
            ]
            total_ns, start_unix_ns = of(key, total_ns, start_unix_ns, now_unix_ns)
            least = greatest = None  # which the encoder leaves out
        bounds = [bound / NS_PER_SECOND for bound in measured.bounds]
        points.append(
            HistogramDataPoint(
                attributes,
                start_unix_ns,
                period.now_unix_ns,
                sum(buckets),
                total_ns / NS_PER_SECOND,
                buckets,
                bounds,
                least,
                greatest,
            )
        )
    return Metric(name, description, "s", Histogram(points, CUMULATIVE if period.differences is None else DELTA))


def _points(numbers: Iterable[Labelled], period: Period) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(attributes, period.start_unix_ns, period.now_unix_ns, value) for attributes, value in numbers
    ]
