"""Metrics are exact: they are compared with the spans of the same exchanges, and with what the client says it sent."""

import json
import socket
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.backends import filing_collector, written_spans
from tests.end_to_end.sink import CLIENT, SERVER, Sink, Span, plain
from tests.end_to_end.stage import Stage
from tests.end_to_end.test_load import logged_requests
from tests.end_to_end.truth import belongs_to, differences
from tests.services.load import run_wrk
from tests.services.plan import all_calls, make_call
from tests.services.processes import free_port, wait_until
from tests.services.servers import counting_nginx, serving

SERVER_DURATION, CLIENT_DURATION = "http.server.request.duration", "http.client.request.duration"
BOUNDS_S = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
EVERY_SECOND = {"OTEL_METRIC_EXPORT_INTERVAL": "1000"}


def points(request: ExportMetricsServiceRequest, name: str) -> list[Any]:
    return [
        point
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
    ]


def attributes(point: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in point.attributes}


def by_method_and_status(found: list[Any]) -> dict[tuple[str, int], Any]:
    """Each series once."""
    keys = [
        (attributes(point)["http.request.method"], attributes(point)["http.response.status_code"]) for point in found
    ]
    assert len(keys) == len(set(keys)), f"a series twice in one export: {keys}"
    return dict(zip(keys, found, strict=True))


def counts(found: list[Any]) -> dict[tuple[str, int], int]:
    return {key: point.count for key, point in by_method_and_status(found).items()}


def assert_is_of_spans(point: Any, spans: list[Span]) -> None:
    """Count, sum, extremes and each bucket are those of the spans' own durations; exemplars are some of the spans."""
    seconds = [span.duration_ns / 1e9 for span in spans]
    buckets = Counter(bisect_left(BOUNDS_S, duration) for duration in seconds)
    assert (len(spans), min(seconds), max(seconds)) == (point.count, point.min, point.max)
    assert pytest.approx(sum(seconds)) == point.sum
    assert [buckets[index] for index in range(len(BOUNDS_S) + 1)] == list(point.bucket_counts)
    assert BOUNDS_S == list(point.explicit_bounds)
    by_ids = {(span.trace_id, span.span_id): span for span in spans}
    for exemplar in point.exemplars:
        span = by_ids[exemplar.trace_id, exemplar.span_id]
        assert (span.duration_ns / 1e9, span.end_unix_ns) == (exemplar.as_double, exemplar.time_unix_nano)


@pytest.mark.parametrize("kind", [SERVER, CLIENT], ids=["server", "client"])
def test_durations_are_those_of_the_spans(kind: int, prefix: str, stage: Stage) -> None:
    """To the nanosecond, both sides; each bucket of the newest export names a span that arrived."""
    server = stage.server("go")
    client = stage.client("http.client", server, all_calls(prefix))
    target = {"OTEL_EBPF_OPEN_PORT": server.port} if kind == SERVER else {"OTEL_EBPF_TARGET_PID": client.pid}
    agent = stage.agent(is_ended_by_test=True, **target, OTEL_EBPF_ROUTES_UNMATCHED="unset")
    results = client.send()
    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    agent.assert_clean_stop()  # before the first interval is over: the end exports, too

    assert [] == differences(results, spans, kind)
    (request,) = stage.sink.metrics
    found = by_method_and_status(points(request, SERVER_DURATION if kind == SERVER else CLIENT_DURATION))
    assert Counter((result.method, result.status) for result in results) == {
        key: point.count for key, point in found.items()
    }
    assert [] == points(request, CLIENT_DURATION if kind == SERVER else SERVER_DURATION)
    for (method, status), point in found.items():
        own = [
            span
            for span in spans
            if (method, status)
            == (span.attributes["http.request.method"], span.attributes["http.response.status_code"])
        ]
        assert_is_of_spans(point, own)
        assert len(point.exemplars) == sum(1 for count in point.bucket_counts if count)


def test_what_the_sampler_does_not_keep_is_measured_all_the_same(prefix: str, stage: Stage) -> None:
    """Half of the spans, all of the measurements; an exemplar is one of the spans that were kept."""
    server = stage.server("go")
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_TRACES_SAMPLER="traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.5",
    )
    calls = [make_call(f"{prefix}{number:03}", "GET", 200, 1) for number in range(300)]
    stage.client("http.client", server, calls).send()
    stage.sink.wait_for(1, belongs_to(prefix))
    agent.assert_clean_stop()

    kept = stage.sink.spans
    (point,) = points(stage.sink.metrics[-1], SERVER_DURATION)
    assert 300 == point.count
    assert 0 < len(kept) < 300
    assert point.exemplars
    assert {(one.trace_id, one.span_id) for one in point.exemplars} <= {(span.trace_id, span.span_id) for span in kept}


def test_each_service_is_a_resource_the_one_of_its_spans(prefix: str, stage: Stage) -> None:
    servers = [stage.server("go"), stage.server("nginx")]
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=f"{servers[0].port},{servers[1].port}",
        OTEL_EBPF_HTTP_METRICS="duration",
    )
    for server in servers:
        stage.client("http.client", server, [make_call(f"{prefix}{server.port}", "GET")]).send()
    spans = stage.sink.wait_for(2, belongs_to(prefix))
    agent.assert_clean_stop()

    (request,) = stage.sink.metrics
    of_spans = sorted(str(sorted(span.resource.items())) for span in spans)
    of_metrics = sorted(
        str(sorted((pair.key, plain(pair.value)) for pair in resource.resource.attributes))
        for resource in request.resource_metrics
        if any(metric.name == SERVER_DURATION for scope in resource.scope_metrics for metric in scope.metrics)
    )
    assert of_spans == of_metrics


def test_body_sizes_and_requests_in_flight_are_measured_when_asked_for(prefix: str, stage: Stage) -> None:
    """A request is in flight until its last byte is sent and answered; the sizes are the plan's."""
    server = stage.server("go")
    stage.agent(
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_HTTP_METRICS="duration,body_size,active_requests",
        OTEL_METRIC_EXPORT_INTERVAL="200",
    )
    call = make_call(f"{prefix}slow", "POST", 200, 1000, sent=70)

    def in_flight() -> list[int]:
        return [
            int(point.as_int)
            for request in list(stage.sink.metrics)
            for point in points(request, "http.server.active_requests")
        ]

    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(f"POST {call.target} HTTP/1.1\r\nHost: a\r\nContent-Length: 70\r\n\r\n".encode() + b"x" * 69)
        wait_until(lambda: in_flight()[-1:] == [1], "one request is in flight")
        client.sendall(b"x")
        wait_until(lambda: in_flight()[-1:] == [0], "then none")
    wait_until(lambda: points(stage.sink.metrics[-1], SERVER_DURATION), "its duration")
    last = stage.sink.metrics[-1]
    for name, size in (("http.server.request.body.size", 70), ("http.server.response.body.size", 1000)):
        (point,) = points(last, name)
        assert (1, size, size, size) == (point.count, point.sum, point.min, point.max)


def sums(sink: Sink) -> dict[tuple[str, int], int]:
    """Of all exports, as differences."""
    total: Counter[tuple[str, int]] = Counter()
    for request in list(sink.metrics):
        total.update(counts(points(request, SERVER_DURATION)))
    return dict(total)


def test_differences_and_exponential_histograms_add_up(prefix: str, stage: Stage) -> None:
    """Sent every second; calls in between, so that they lie in different exports."""
    server = stage.server("nginx")
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_ROUTES_UNMATCHED="unset",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="base2_exponential_bucket_histogram",
        **EVERY_SECOND,
    )
    truth: Counter[tuple[str, int]] = Counter()
    for part in "abc":
        results = stage.client("http.client", server, all_calls(f"{prefix}{part}")).send()
        truth.update((result.method, result.status) for result in results)
        wait_until(lambda: sums(stage.sink) == truth, "all that was sent is counted")
    agent.assert_clean_stop()

    assert truth == sums(stage.sink)
    assert len([request for request in stage.sink.metrics if points(request, SERVER_DURATION)]) >= 3
    for request in stage.sink.metrics:
        for point in points(request, SERVER_DURATION):
            assert point.count == point.zero_count + sum(point.positive.bucket_counts)
            assert point.start_time_unix_nano < point.time_unix_nano


def test_a_target_that_is_started_again_is_not_counted_twice(prefix: str, stage: Stage) -> None:
    """Each life is a resource with totals of its own; their sum is what was sent, and stays so."""
    port = free_port()
    stage.agent(OTEL_EBPF_OPEN_PORT=port, **EVERY_SECOND)
    for life, count in enumerate((3, 5)):
        with serving("go", stage.new_folder("go"), port=port) as server:
            calls = [make_call(f"{prefix}{life}x{number}", "GET") for number in range(count)]
            stage.client("http.client", server, calls).send()
            stage.sink.wait_for(count, belongs_to(f"{prefix}{life}"))

    def seen() -> list[int]:
        """The totals of each resource, in the newest export."""
        return [
            sum(point.count for point in metric.histogram.data_points)
            for resource in stage.sink.metrics[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == SERVER_DURATION
        ]

    wait_until(lambda: sorted(seen()) == [3, 5], "both lives are counted")
    exports = len(stage.sink.metrics)
    wait_until(lambda: len(stage.sink.metrics) > exports + 1, "two exports more")
    assert [3, 5] == sorted(seen())


def metrics_in(output: Path) -> list[ExportMetricsServiceRequest]:
    """What the collector wrote beside its spans; OTLP's JSON has its ids in hexadecimal, which protobuf reads as base64."""
    path = output.with_name("metrics.jsonl")
    lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [ParseDict(json.loads(line), ExportMetricsServiceRequest()) for line in lines]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_real_collector_receives_what_nginx_has_logged(protocol: str, prefix: str, stage: Stage) -> None:
    """Ten thousand requests and more, as fast as they come. What the ring lost is told by the accounts."""
    server, log = stage.ends.enter_context(counting_nginx(stage.new_folder("nginx")))
    collector, output = stage.ends.enter_context(filing_collector(stage.new_folder("collector"), protocol))
    agent = stage.agent(sink=collector, is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=server.port, **EVERY_SECOND)
    while logged_requests(log) < 10_000:
        run_wrk(server, make_call(f"{prefix}load", "GET", 200, 1000).target, seconds=1, connections=4)
    agent.stop()

    accounts = read_accounts(agent.messages)
    # wrk leaves in the middle of some, which then have no status.
    wait_until(
        lambda: sum(point.count for point in points(metrics_in(output)[-1], SERVER_DURATION)) == accounts.spans, "all"
    )
    wait_until(lambda: len(written_spans(output)) >= accounts.spans, "all spans are written")
    assert logged_requests(log) == accounts.began == accounts.spans + accounts.lost
    assert accounts.spans == len(written_spans(output))
    assert "takes no" not in agent.messages
