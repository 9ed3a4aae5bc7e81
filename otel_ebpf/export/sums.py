"""Counts and states as the metrics SDK's Sum and Gauge.

In:   numbers, each with its attributes
Out:  Metric
Owns: nothing
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Metric, NumberDataPoint, Sum

from otel_ebpf.telemetry.differences import Differences

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


def _points(numbers: Iterable[Labelled], period: Period) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(attributes, period.start_unix_ns, period.now_unix_ns, value) for attributes, value in numbers
    ]
