"""Snapshots in the SDK's form, looked at through the official encoder."""

from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, AGGREGATION_TEMPORALITY_DELTA

from otel_ebpf.exchanges.exchange import OpenRequest, Role
from otel_ebpf.export.metrics_data import CUMULATIVE, DELTA, MetricsDataBuilder
from tests.unit.export.measurements import NS, OFFSET_NS, Measured, metrics_settings, plain, points_of
from tests.unit.telemetry.examples import PEER, client_exchange, exchange

BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
TRACE_ID, SPAN_ID = b"t" * 16, b"s" * 8


def sent(measured: Measured, since_unix_ns: int = 0, is_delta: bool = False) -> ExportMetricsServiceRequest:
    meter = measured.measuring.for_prometheus
    assert meter is not None
    builder = MetricsDataBuilder("1.2.3", OFFSET_NS)
    return encode_metrics(builder.build(measured.snapshot(meter), DELTA if is_delta else CUMULATIVE, since_unix_ns))


def lasting(ms: float, **changes: Any) -> Any:
    return exchange(request_start_ns=NS, end_ns=NS + int(ms * 1_000_000), **changes)


def test_durations_are_the_conventions_histogram() -> None:
    """Seconds, the advised buckets, one Resource for each service, the schema's URL."""
    measured = Measured(metrics_settings())
    measured.begin_tick(1)
    measured.record(lasting(1), lasting(5), lasting(5.000001), lasting(20_000))
    request = sent(measured)

    (resource,) = request.resource_metrics
    assert {"service.name": "shop", "service.instance.id": "1"} == plain(resource.resource)
    (scope,) = resource.scope_metrics
    assert ("otel-ebpf", "1.2.3", "https://opentelemetry.io/schemas/1.44.0") == (
        scope.scope.name,
        scope.scope.version,
        scope.schema_url,
    )
    (metric,) = scope.metrics
    assert ("http.server.request.duration", "s") == (metric.name, metric.unit)
    assert AGGREGATION_TEMPORALITY_CUMULATIVE == metric.histogram.aggregation_temporality
    (point,) = metric.histogram.data_points
    assert BOUNDS == list(point.explicit_bounds)
    assert [2, 1, *[0] * 12, 1] == list(point.bucket_counts)
    assert (4, 20.011000001, 0.001, 20.0) == (point.count, point.sum, point.min, point.max)
    assert (OFFSET_NS, OFFSET_NS + NS) == (point.start_time_unix_nano, point.time_unix_nano)


def test_each_role_has_its_metric() -> None:
    measured = Measured(metrics_settings())
    measured.record(exchange(), client_exchange())

    assert {"http.server.request.duration", "http.client.request.duration"} == points_of(sent(measured)).keys()


def test_sizes_are_metrics_when_asked_for() -> None:
    measured = Measured(metrics_settings(http=("duration", "body_size")))
    measured.record(exchange(request_body_bytes=0, response_body_bytes=1000), client_exchange(response_body_bytes=None))
    points = points_of(sent(measured))

    assert {
        "http.server.request.duration",
        "http.server.request.body.size",
        "http.server.response.body.size",
        "http.client.request.duration",
        "http.client.request.body.size",
    } == points.keys()
    (point,) = points["http.server.response.body.size"]
    assert (1, 1000.0) == (point.count, point.sum)


def test_differences_say_so() -> None:
    measured = Measured(metrics_settings())
    measured.record(exchange())
    (metric,) = sent(measured, is_delta=True).resource_metrics[0].scope_metrics[0].metrics

    assert AGGREGATION_TEMPORALITY_DELTA == metric.histogram.aggregation_temporality


def test_exponential_histograms_hold_the_same() -> None:
    """Each value lies within the bounds of its bucket: base ** index < value <= base ** (index + 1)."""
    otlp_only = metrics_settings(object(), prometheus=None, is_exponential=True)  # type: ignore[arg-type]
    measured = Measured(otlp_only)
    meter = measured.measuring.for_otlp
    assert meter is not None
    measured.record(lasting(0), lasting(1), lasting(30), lasting(2000))
    data = MetricsDataBuilder("1", OFFSET_NS).build(measured.snapshot(meter), CUMULATIVE, 0)
    (point,) = points_of(encode_metrics(data))["http.server.request.duration"]

    base = 2 ** (2**-point.scale)
    offset = point.positive.offset
    filled = [offset + index for index, count in enumerate(point.positive.bucket_counts) if count]
    assert (4, 1, 3) == (point.count, point.zero_count, len(filled))
    for index, seconds in zip(filled, (0.001, 0.03, 2.0), strict=True):
        assert base**index < seconds <= base ** (index + 1)


def test_exemplars_name_the_span_that_was_kept_once() -> None:
    """Its time is the exchange's end. A total is told again and again, its exemplars are not."""
    measured = Measured(metrics_settings())
    measured.begin_tick(10)
    measured.record(lasting(1), lasting(30))
    measured.record(exchange(request_start_ns=9 * NS, end_ns=9 * NS + 2_000_000), span=(TRACE_ID, SPAN_ID))
    (point,) = points_of(sent(measured))["http.server.request.duration"]

    (found,) = point.exemplars
    assert (TRACE_ID, SPAN_ID, 0.002) == (found.trace_id, found.span_id, found.as_double)
    assert OFFSET_NS + 9 * NS + 2_000_000 == found.time_unix_nano
    (point,) = points_of(sent(measured, since_unix_ns=OFFSET_NS + 60 * NS))["http.server.request.duration"]
    assert (3, 0) == (point.count, len(point.exemplars))


def open_request(target: bytes = b"/", role: Role = Role.SERVER) -> OpenRequest:
    return OpenRequest(99, role, 2, PEER, 8080, b"GET", target, b"bank.example")


def test_requests_in_flight_are_counted_when_asked_for() -> None:
    """By what is known before the answer; none left is 0, not the last number standing."""
    measured = Measured(metrics_settings(http=("duration", "active_requests")))
    measured.open = [open_request(b"/a"), open_request(b"/b"), open_request(role=Role.CLIENT)]
    points = points_of(sent(measured))
    measured.open = []
    later = points_of(sent(measured))

    assert [({"http.request.method": "GET", "url.scheme": "http"}, 2)] == [
        (plain(point), point.as_int) for point in points["http.server.active_requests"]
    ]
    client = {"http.request.method": "GET", "server.address": "bank.example", "server.port": 80}
    assert [(client, 1)] == [(plain(point), point.as_int) for point in points["http.client.active_requests"]]
    assert [0] == [point.as_int for point in later["http.server.active_requests"]]


def test_requests_in_flight_are_not_asked_for_by_default() -> None:
    measured = Measured(metrics_settings())
    measured.open = [open_request()]

    assert {} == points_of(sent(measured))
