"""otel_ebpf_outcome in the pipeline: measured before it is decided, open until it is, counted once."""

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.export.accounts import status_document
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.replay import SpanFile
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.records.layouts import RECORD
from otel_ebpf.status_text import status_lines
from otel_ebpf.telemetry.attributes import KNOWN_METHODS
from otel_ebpf.telemetry.outcome import WAIT_NS
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.sampling import OUTCOME, SamplerRules
from tests.unit.exchanges.kernel_model import Connection
from tests.unit.export.measurements import metrics_settings
from tests.unit.export.test_accounts import RING, Samples

TRACE = "00-{:032x}-b7ad6b7169203331-01"


class Agent:
    def __init__(self, rate: float) -> None:
        rules = SamplerRules(OUTCOME, rate, 0.0)
        facts = Facts(bytes(32), "1", HostFacts("", "", "", ""), None, 128, ("GET",), sampler=rules)
        self.samples, self.sink = Samples(), SpanFile()
        self.measuring = Measuring(metrics_settings(), KNOWN_METHODS)
        services, builder = facts.services(), facts.builder()
        self.pipeline = Pipeline(
            self.samples, services, builder, facts.sample(), None, self.sink, self.measuring, facts.outcomes()
        )
        self.pipeline.take_frame(ServiceIdentity(7, 1, b"x", b"/x", (b"x",), {}, b"/", "", (80,), "root"))
        self.connections = 0

    def request(self, trace: int | None, status: int = 200) -> None:
        self.connections += 1
        header = "" if trace is None else f"traceparent: {TRACE.format(trace)}\r\n"
        made = Connection(Role.SERVER).request(f"GET /a HTTP/1.1\r\n{header}\r\n".encode())
        made.response(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
        for record in made.records:
            *fields, payload = record._replace(connection=self.connections, service_pid=7)
            self.samples.waiting.append(RECORD.pack(*fields) + payload)

    def tick(self, after_ns: int = 0) -> None:
        self.samples.now_ns += after_ns
        self.pipeline.tick(0)

    @property
    def spans(self) -> list[Span]:
        request = ExportTraceServiceRequest.FromString(self.sink.encode("1"))
        return [span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Spans, not sampled, open."""
        total = self.pipeline.ledger.total()
        still_open = sum(unreported for unreported, _ in self.pipeline.open_by_service().values())
        return total.spans, total.losses.get("not sampled", 0), still_open

    @property
    def measured(self) -> tuple[int, set[str]]:
        """How many, and the traces that exemplars name."""
        durations = [
            series.duration
            for meter in self.measuring.meters
            for service in meter.read().values()
            for of_role in service.roles.values()
            for series in of_role.values()
        ]
        traces = {exemplar[2][0].hex() for duration in durations for exemplar in duration.exemplars.values()}
        return sum(duration.count for duration in durations), traces


def test_what_waits_for_its_trace_is_measured_at_once_and_open_until_it_is_decided() -> None:
    agent = Agent(rate=0)
    agent.request(1)
    agent.request(2)
    agent.tick()
    assert ((0, 0, 2), 2) == (agent.counts, agent.measured[0])

    shown = "\n".join(status_lines(status_document(agent.pipeline, RING, None)))
    assert "2 requests wait to hear of their traces" in shown
    assert "0 spans, 2 open" in shown

    agent.request(1, status=500)
    agent.tick()
    assert ((2, 0, 1), 3) == (agent.counts, agent.measured[0])

    agent.tick(WAIT_NS)
    assert ((2, 1, 0), 3) == (agent.counts, agent.measured[0])
    assert ["ot=th:0"] * 2 == [span.trace_state for span in agent.spans]
    assert {1} == {int.from_bytes(span.trace_id, "big") for span in agent.spans}


def test_exemplars_name_only_spans_that_are_kept() -> None:
    agent = Agent(rate=0)
    for number in range(1, 20):
        agent.request(number, status=500 if number == 7 else 200)
        agent.request(None)
    agent.tick()
    agent.pipeline.finish()

    assert (1, 37, 0) == agent.counts
    assert (38, {f"{7:032x}"}) == agent.measured


def test_at_the_end_nothing_waits_any_more() -> None:
    agent = Agent(rate=1)
    agent.request(1)
    agent.tick()
    agent.pipeline.finish()

    assert (1, 0, 0) == agent.counts
    assert ["ot=th:0"] == [span.trace_state for span in agent.spans]
