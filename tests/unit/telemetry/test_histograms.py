"""The oracle is the metrics SDK: the same values, recorded through its public interface."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from otel_ebpf.telemetry.histograms import ExplicitHistogram, ExponentialHistogram
from otel_ebpf.telemetry.metrics import DURATION_BOUNDS_NS

NS = 1_000_000_000
SPAN = (b"t" * 16, b"s" * 8)
# Of every size, near powers of two and near bounds, where a bucket ends.
VALUES = st.one_of(
    st.integers(0, 100 * NS),
    st.integers(0, 1 << 50),
    st.builds(lambda power, off: max(0, (1 << power) + off), st.integers(0, 40), st.integers(-1, 1)),
    st.builds(lambda seconds, power: max(0, int(seconds * 2.0**power)), st.just(NS), st.integers(-9, 9)),
    st.builds(lambda bound, off: bound + off, st.sampled_from(DURATION_BOUNDS_NS), st.integers(-1, 1)),
)
LISTS = st.lists(VALUES, min_size=1, max_size=200)


def sdk_point(aggregation: Any, values: list[int]) -> Any:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], views=[View(instrument_name="*", aggregation=aggregation)])
    histogram = provider.get_meter("test").create_histogram("h")
    for value in values:
        histogram.record(value / NS)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]


def explicit(values: list[int]) -> ExplicitHistogram:
    histogram = ExplicitHistogram(DURATION_BOUNDS_NS)
    for value in values:
        histogram.record(value)
    return histogram


def exponential(values: list[int]) -> ExponentialHistogram:
    histogram = ExponentialHistogram(NS)
    for value in values:
        histogram.record(value)
    return histogram


def state(histogram: ExplicitHistogram | ExponentialHistogram) -> dict[str, Any]:
    names = ("buckets", "low", "high", "scale", "zeros", "total", "least", "greatest", "exemplars")
    return {name: getattr(histogram, name) for name in names if hasattr(histogram, name)}


@given(LISTS)
def test_explicit_buckets_are_the_sdks(values: list[int]) -> None:
    """Upper bounds belong to their bucket."""
    expected = sdk_point(ExplicitBucketHistogramAggregation([bound / NS for bound in DURATION_BOUNDS_NS]), values)
    found = explicit(values)

    assert list(expected.bucket_counts) == found.buckets
    assert expected.count == found.count
    assert (expected.min, expected.max) == (found.least / NS, found.greatest / NS)
    assert expected.sum == pytest.approx(found.total / NS)  # ours is exact, the SDK adds floats


@given(LISTS)
def test_exponential_buckets_are_the_sdks(values: list[int]) -> None:
    """The same scale, the same buckets: 160 at most, and no coarser than that asks for."""
    expected = sdk_point(ExponentialBucketHistogramAggregation(), values)
    found = exponential(values)

    offset, counts = expected.positive.offset, expected.positive.bucket_counts
    assert {offset + index: count for index, count in enumerate(counts) if count} == found.buckets
    if found.buckets:
        assert (expected.scale, offset) == (found.scale, found.low)
    assert (expected.zero_count, expected.count) == (found.zeros, found.count)
    assert (expected.min, expected.max) == (found.least / NS, found.greatest / NS)


@given(st.lists(LISTS, min_size=1, max_size=4))
@pytest.mark.parametrize("make", [explicit, exponential])
def test_parts_that_are_added_are_the_whole(make: Any, parts: list[list[int]]) -> None:
    """What a collector did not take is sent with what came later."""
    whole = make([value for part in parts for value in part])
    added = make([])
    for part in parts:
        added.add(make(part))

    assert state(whole) == state(added)


@pytest.mark.parametrize("make", [explicit, exponential])
def test_a_copy_stays_as_it_was(make: Any) -> None:
    histogram = make([1, NS])
    copy = histogram.copy()
    before = deepcopy(state(histogram))
    histogram.record(40 * NS, 1, SPAN)

    assert before == state(copy)
    assert before != state(histogram)


def test_the_newest_exemplar_of_each_bucket_is_kept() -> None:
    histogram = ExplicitHistogram(DURATION_BOUNDS_NS)
    for at, value in enumerate((1000, NS, 2000)):
        histogram.record(value, at, SPAN)

    assert {(2000, 2, SPAN), (NS, 1, SPAN)} == set(histogram.exemplars.values())


def test_an_exponential_histogram_keeps_one_exemplar_for_each_doubling() -> None:
    """So the one slow request is not pushed out by a thousand fast ones; twenty at most."""
    histogram = exponential([])
    histogram.record(8 * NS, 0, SPAN)
    for power in (*range(30), *range(36, 50)):
        histogram.record(1 << power, power, SPAN)
    for at in range(1000):
        histogram.record(1_000_000 + at, at, SPAN)

    assert (8 * NS, 0, SPAN) in histogram.exemplars.values()
    assert len(histogram.exemplars) <= 20
