"""What the agent says of itself, by the names of the conventions."""

from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.semconv._incubating.attributes.otel_attributes import OtelComponentTypeValues
from opentelemetry.semconv._incubating.metrics import otel_metrics

from otel_ebpf.export.ledger_readings import Standing
from otel_ebpf.export.self_metrics import SelfMetrics
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.telemetry.differences import Differences
from tests.unit.export.collectors import OK, answer, http_collector, settings, wait_until
from tests.unit.export.measurements import plain, points_of
from tests.unit.export.sending import sending
from tests.unit.telemetry.examples import HOST

HOST_STANDING = Standing(b"", {}, 10, 1, {"span": 7, "lost, ring full": 2}, {}, 3)
SNAPSHOT = Snapshot(5_000_000_000, 0, {}, [], [], HOST_STANDING)


def numbers(own: SelfMetrics, differences: Differences | None = None) -> dict[str, list[tuple[dict[str, Any], float]]]:
    request = encode_metrics(MetricsData(own.read(SNAPSHOT, differences)))
    return {
        name: [(plain(point), getattr(point, point.WhichOneof("value"))) for point in points]
        for name, points in points_of(request).items()
        if not name.endswith("duration")
    }


def values(found: list[tuple[dict[str, Any], float]], key: str) -> dict[str | None, float]:
    return {attributes.get(key): value for attributes, value in found}


def test_names_of_the_sdk_are_those_of_the_conventions() -> None:
    known = {value for name, value in vars(otel_metrics).items() if name.startswith("OTEL_SDK")}
    with http_collector() as collector, sending(settings(collector.endpoint), queue_spans=5) as own:
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "it is sent")
        found = {
            name: [(plain(point), 0) for point in points]
            for name, points in points_of(
                encode_metrics(MetricsData(SelfMetrics("1", HOST, own.sender).read(SNAPSHOT)))
            ).items()
        }

    of_sdk = {name for name in found if name.startswith("otel.sdk.")}
    assert of_sdk <= known
    assert 6 == len(of_sdk)
    types = {value.value for value in OtelComponentTypeValues}
    assert {attributes["otel.component.type"] for name in of_sdk for attributes, _ in found[name]} <= types


def test_spans_are_told_by_what_became_of_them() -> None:
    with http_collector() as collector, sending(settings(collector.endpoint)) as own:
        own.put("a", "b", "c")
        wait_until(lambda: own.sender.counts().exported == 3, "they are sent")
        found = numbers(SelfMetrics("1", HOST, own.sender))

    exported = found["otel.sdk.exporter.span.exported"]
    assert {None: 3, "rejected": 0} == values(exported, "error.type")
    assert ("127.0.0.1", collector.port) == (exported[0][0]["server.address"], exported[0][0]["server.port"])
    assert {None: 3, "queue_full": 0} == values(found["otel.sdk.processor.span.processed"], "error.type")
    assert [0] == [value for _, value in found["otel.sdk.processor.span.queue.size"]]
    assert [0] == [value for _, value in found["otel.sdk.exporter.span.inflight"]]


def test_requests_to_the_collector_are_timed_by_how_they_ended() -> None:
    collectors = http_collector(answer("503 no"), answer("400 bad"), OK)
    with collectors as collector, sending(settings(collector.endpoint), batch_spans=1) as own:
        own.put("a", "b")
        wait_until(lambda: own.sender.counts().exported == 1, "one is taken")
        agent, differences = SelfMetrics("1", HOST, own.sender), Differences()
        request = encode_metrics(MetricsData(agent.read(SNAPSHOT, differences)))
        differences.were_taken()
        later = encode_metrics(MetricsData(agent.read(SNAPSHOT, differences)))
    points = points_of(request)["otel.sdk.exporter.operation.duration"]

    assert {"unavailable": 1, "refused": 1, None: 1} == {
        plain(point).get("error.type"): point.count for point in points
    }
    assert all(point.sum > 0 and point.count == sum(point.bucket_counts) for point in points)
    assert {0} == {point.count for point in points_of(later)["otel.sdk.exporter.operation.duration"]}


def test_spans_that_wait_and_those_that_found_no_room_are_told() -> None:
    with sending(settings("http://127.0.0.1:1/v1/traces"), is_started=False, queue_spans=2) as own:
        own.put("a", "b", "c")
        found = numbers(SelfMetrics("1", HOST, own.sender))

    assert {None: 0, "queue_full": 1} == values(found["otel.sdk.processor.span.processed"], "error.type")
    assert [2] == [value for _, value in found["otel.sdk.processor.span.queue.size"]]
    assert [2] == [value for _, value in found["otel.sdk.processor.span.queue.capacity"]]
    assert [own.sender.queue.size_bytes] == [value for _, value in found["otel_ebpf.queue.usage"]]


def test_the_ledger_of_the_host_adds_up() -> None:
    found = numbers(SelfMetrics("1", HOST, None))

    assert [({}, 10)] == found["otel_ebpf.host.requests.began"]
    assert {"span": 7, "lost, ring full": 2} == values(found["otel_ebpf.host.requests.results"], "otel_ebpf.result")
    assert [({}, 1)] == found["otel_ebpf.host.requests.open"]


def test_processes_are_told_with_their_memory_and_time() -> None:
    found = numbers(SelfMetrics("1", HOST, None))

    assert {"exporter", "probe"} == {
        attributes["otel_ebpf.process"] for attributes, _ in found["otel_ebpf.process.cpu.time"]
    }
    assert {"user", "system"} == {attributes["cpu.mode"] for attributes, _ in found["otel_ebpf.process.cpu.time"]}
    memory = values(found["otel_ebpf.process.memory.usage"], "otel_ebpf.process")
    assert memory["exporter"] > 1_000_000


def test_counters_are_differences_where_those_are_wanted() -> None:
    """What can go down stays a state."""
    own, differences = SelfMetrics("1", HOST, None), Differences()
    numbers(own, differences)
    differences.were_taken()
    found = numbers(own, differences)

    assert [({}, 0)] == found["otel_ebpf.host.requests.began"]
    assert [({}, 1)] == found["otel_ebpf.host.requests.open"]


def test_the_agent_is_a_resource_of_its_own() -> None:
    (resource,) = encode_metrics(MetricsData(SelfMetrics("1.2.3", HOST, None).read(SNAPSHOT, None))).resource_metrics
    found = plain(resource.resource)

    assert {"service.name": "otel-ebpf", "service.version": "1.2.3", "host.name": "web1"}.items() <= found.items()
    assert found["service.instance.id"]
