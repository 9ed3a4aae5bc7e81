"""From samples of lookups to events on spans and to names in metrics."""

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.replay import SpanFile
from otel_ebpf.records.kinds import Lookup, LookupKind
from otel_ebpf.records.layouts import LOOKUP, RECORD
from otel_ebpf.telemetry.attributes import KNOWN_METHODS
from tests.unit.exchanges.kernel_model import Connection
from tests.unit.export.measurements import metrics_settings
from tests.unit.export.test_accounts import OK, Agent
from tests.unit.telemetry.examples import PEER, lookup


def sample(told: Lookup) -> bytes:
    families = bytes(family for family, _ in told.answers)
    addresses = b"".join(address for _, address in told.answers)
    return LOOKUP.pack(
        LookupKind.LOOKUP,
        told.is_same_thread,
        told.is_only_name,
        len(told.answers),
        told.pid,
        told.tid,
        0,
        told.connection,
        told.former_connection,
        told.start_monotonic_ns,
        told.end_monotonic_ns,
        families,
        addresses,
        told.name,
    )


def of_calls(host: bytes, count: int, told: bytes) -> tuple[list[Span], set[object]]:
    """Spans of calls on connection 7, and the servers that were measured."""
    sink, measuring = SpanFile(), Measuring(metrics_settings(), KNOWN_METHODS)
    agent = Agent(sink=sink, measuring=measuring)
    agent.name(7, b"shop")
    agent.samples.waiting.append(told)
    made = Connection(Role.CLIENT)
    for _ in range(count):
        made.request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").response(OK)
    for record in made.records:
        changed = record._replace(connection=7, service_pid=7, family=2, remote_address=PEER, remote_port=80)
        *fields, payload = changed
        agent.samples.waiting.append(RECORD.pack(*fields) + payload)
    agent.pipeline.tick(0)
    agent.pipeline.finish()
    request = ExportTraceServiceRequest.FromString(sink.encode("1"))
    servers = {
        dict(attributes).get("server.address")
        for meter in measuring.meters
        for service in meter.read().values()
        for attributes in service.roles[Role.CLIENT]
    }
    return list(request.resource_spans[0].scope_spans[0].spans), servers


def text(span: Span, key: str) -> str:
    return next((pair.value.string_value for pair in span.attributes if pair.key == key), "")


def test_the_first_call_of_a_connection_has_waited():
    spans, _ = of_calls(b"shop.example", 3, sample(lookup()))

    assert [["dns.lookup"], [], []] == [[event.name for event in span.events] for span in spans]


def test_a_bare_address_has_the_name_on_all_calls_and_in_metrics():
    spans, servers = of_calls(b"10.0.0.9", 2, sample(lookup()))

    assert ["shop.example"] * 2 == [text(span, "server.address") for span in spans]
    assert {"shop.example"} == servers


def test_another_threads_lookup_of_another_name_is_nobodys():
    spans, servers = of_calls(b"www.example", 1, sample(lookup(is_same_thread=False)))

    assert [] == list(spans[0].events)
    assert {"www.example"} == servers


def test_a_sample_that_cannot_be_is_counted_and_harms_nothing():
    broken = bytearray(sample(lookup()))
    broken[3] = 9  # answers, of which there may be eight
    spans, _ = of_calls(b"shop.example", 1, bytes(broken))

    assert [] == list(spans[0].events)
