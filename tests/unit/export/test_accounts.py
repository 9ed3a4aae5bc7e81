"""The accounts in words, made by a real pipeline whose inputs are written down."""

import json
from types import SimpleNamespace
from typing import Any, cast

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.export.accounts import MAX_LINES, MAX_SERVICES, host_line, service_lines, status_document
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.pipeline import Pipeline, SpanSink
from otel_ebpf.export.sender import SendCounts
from otel_ebpf.export.services import Services
from otel_ebpf.records.frames import Hooks, LedgerClosed
from otel_ebpf.records.kinds import Counter, CounterReading, LedgerReading, ServiceIdentity
from otel_ebpf.records.layouts import RECORD
from otel_ebpf.records.ring import RingReader
from otel_ebpf.status_text import status_lines
from otel_ebpf.telemetry.places import Places
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.sampling import SamplerRules, make_sampler
from otel_ebpf.telemetry.spans import SpanBuilder
from otel_ebpf.telemetry.trace_context import IdSource
from tests.unit.exchanges.kernel_model import Connection

GET, OK = b"GET /a HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
RING = cast(RingReader, SimpleNamespace(size_bytes=4096, used_bytes=1024))
SENT = SendCounts(exported=3, rejected=0, dropped=2, failed=0)


class Samples:
    """Inputs from a list of samples."""

    produced = 0

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.now_ns = 10_000_000_000
        self.tick_ns = 2_000_000_000

    def accept(self, _frame: object) -> int:
        return self.now_ns

    def begin_tick(self) -> int:
        self.now_ns += self.tick_ns
        return self.now_ns

    def clock_offset_ns(self) -> int:
        return 0

    def drain(self, handle: Any, _until: int) -> int:
        waiting, self.waiting = self.waiting, []
        for sample in waiting:
            handle(sample, 0, len(sample))
        return len(waiting)

    def read_progress(self, _connection: int, _position: int) -> None:
        return None

    def own_endpoints(self) -> frozenset[tuple[bytes, int]]:
        return frozenset()

    def finish(self) -> int:
        return self.now_ns


class Agent:
    def __init__(
        self, sampler: str = "always_on", sink: SpanSink | None = None, measuring: Measuring | None = None
    ) -> None:
        self.samples = Samples()
        builder = SpanBuilder(None, 128, frozenset({b"GET"}))
        places = Places(IdSource(bytes(32)))
        services = Services(HostFacts("", "host", "", ""), "1")
        self.pipeline = Pipeline(
            self.samples, services, builder, make_sampler(SamplerRules(sampler), places), None, sink, measuring
        )

    def exchange(self, connection: int, service_pid: int, *, is_answered: bool = True) -> None:
        made = Connection(Role.SERVER).request(GET)
        if is_answered:
            made.response(OK)
        for record in made.records:
            *fields, payload = record._replace(connection=connection, service_pid=service_pid)
            self.samples.waiting.append(RECORD.pack(*fields) + payload)

    def kernel(self, service_pid: int, processes: int = 1, **counts: int) -> None:
        values = tuple(counts.get(counter.name.lower(), 0) for counter in Counter)
        self.pipeline.take_frame(LedgerReading(((service_pid, processes, *values),)))

    def name(self, service_pid: int, name: bytes) -> None:
        environ = {"OTEL_SERVICE_NAME": name}
        self.pipeline.take_frame(
            ServiceIdentity(service_pid, 1, b"x", b"/x", (b"x",), environ, b"/", "", (80,), "root")
        )


def two_services() -> Agent:
    """shop: 4 began, 2 spans, 1 lost in the kernel, 1 open. bank: 1 began, 1 span."""
    agent = Agent()
    agent.name(7, b"shop")
    agent.name(8, b"bank")
    for connection, pid in ((1, 7), (2, 7), (3, 8)):
        agent.exchange(connection, pid)
    agent.exchange(4, 7, is_answered=False)
    agent.kernel(7, 3, began=4, lost_ring_full=1, tls=2)
    agent.kernel(8, 1, began=1)
    values = [0] * len(Counter)
    values[Counter.BEGAN], values[Counter.LOST_RING_FULL] = 5, 1
    agent.pipeline.take_frame(CounterReading(tuple(values)))
    agent.pipeline.take_frame(Hooks("raw tracepoint sys_exit"))
    agent.pipeline.tick(0)
    return agent


def test_what_waits_for_the_name_of_its_service_is_bounded_in_bytes() -> None:
    """Long targets in the first second of a service that nobody has looked at yet."""
    agent = Agent()
    agent.samples.tick_ns = 1_000_000
    count = 3 * (16 << 20) // 8000
    made = Connection(Role.SERVER).request(b"GET /" + b"p" * 8000 + b" HTTP/1.1\r\n\r\n").response(OK)
    for connection in range(count):
        for record in made.records:
            *fields, payload = record._replace(connection=connection, service_pid=7)
            agent.samples.waiting.append(RECORD.pack(*fields) + payload)
        if len(agent.samples.waiting) > 1000:
            agent.pipeline.tick(0)
    agent.pipeline.tick(0)

    assert sum(len(exchange.target) for _, exchange in agent.pipeline._held) < 17 << 20
    agent.pipeline.finish()
    assert count == agent.pipeline.ledger.total().spans


def test_at_the_end_each_service_and_the_host_add_up() -> None:
    agent = two_services()
    agent.pipeline.finish()

    assert [
        "shop (pid 7): 4 began, 2 spans, 1 lost, ring full, 1 open at the end",
        "bank (pid 8): 1 began, 1 spans",
    ] == service_lines(agent.pipeline)
    expected = "5 requests began, 3 spans, 1 lost, ring full, 1 open at the end, 3 exported, 2 dropped"
    assert expected == host_line(agent.pipeline, SENT)
    assert host_line(agent.pipeline, SENT._replace(on_disk=4, found_on_disk=1)).endswith("4 on disk, 1 found on disk")


def test_one_service_that_lost_nothing_needs_no_line_of_its_own() -> None:
    agent = Agent()
    agent.kernel(7, 1, began=1)
    agent.exchange(1, 7)
    agent.kernel(8, 1)
    agent.pipeline.tick(0)
    agent.pipeline.finish()

    assert [] == service_lines(agent.pipeline)
    agent.kernel(7, 1, began=2, lost_ring_full=1)
    assert ["unknown_service (pid 7): 2 began, 1 spans, 1 lost, ring full"] == service_lines(agent.pipeline)


def test_while_it_runs_what_is_open_makes_up_the_difference() -> None:
    document = json.loads(status_document(two_services().pipeline, RING, None))

    shop, bank = document["services"]
    assert ("shop (pid 7)", 3, 4, 2, 1) == tuple(shop[key] for key in ("name", "processes", "began", "spans", "open"))
    assert ["2 TLS connections, of which no plain text was seen"] == shop["not_visible"]
    assert 2 / 3 == shop["captured"]
    assert 1 == bank["captured"]
    assert 7 == document["ring"]["records"], "3 exchanges of 2 records, a request alone"
    for numbers in (shop, bank, document["host"]):
        assert numbers["began"] == numbers["spans"] + numbers["open"] + sum(numbers["losses"].values())


def test_a_span_counts_among_the_requests_before_the_kernels_count_is_read() -> None:
    agent = Agent()
    agent.name(7, b"shop")
    agent.exchange(1, 7)
    agent.pipeline.tick(0)
    document = json.loads(status_document(agent.pipeline, RING, None))

    assert (1, 1) == (document["services"][0]["began"], document["services"][0]["spans"])
    assert (1, 1) == (document["host"]["began"], document["host"]["spans"])


def test_people_can_read_the_document() -> None:
    lines = status_lines(status_document(two_services().pipeline, RING, None))

    assert "shop (pid 7), 3 processes" in lines
    assert "  requests  4 began, 2 spans, 1 open, 66.66 % captured" in lines


def test_what_ended_long_ago_is_in_one_account() -> None:
    agent = two_services()
    agent.pipeline.take_frame(LedgerClosed(7))
    agent.pipeline.take_frame(LedgerClosed(8))

    assert ["services that ended before: 5 began, 3 spans, 1 lost, ring full"] == service_lines(agent.pipeline)


def test_a_thousand_services_make_neither_a_thousand_lines_nor_a_document_without_end() -> None:
    agent = Agent()
    for pid in range(1, 1001):
        agent.kernel(pid, 1, began=1, lost_ring_full=1)
    document = status_document(agent.pipeline, RING, None)

    assert MAX_LINES + 1 == len(service_lines(agent.pipeline))
    assert MAX_SERVICES == len(json.loads(document)["services"])
    assert 1000 - MAX_SERVICES == json.loads(document)["services_left_out"]
    assert len(document) < 300_000


def test_an_undecodable_record_is_counted_though_nobody_knows_whose_it_was() -> None:
    agent = Agent()
    agent.samples.waiting.append(b"\xff" * 300)
    agent.pipeline.tick(0)

    assert {"undecodable record": 1} == agent.pipeline.ledger.total().losses


def test_what_the_sampler_did_not_keep_has_no_span_and_is_not_missing() -> None:
    """Requests that began = spans + not sampled + losses; what was left out on purpose counts as captured."""
    agent = Agent("always_off")
    agent.name(7, b"shop")
    for connection in range(3):
        agent.exchange(connection, 7)
    agent.kernel(7, 1, began=4, lost_ring_full=1)
    agent.pipeline.tick(0)

    assert ["shop (pid 7): 4 began, 0 spans, 1 lost, ring full, 3 not sampled"] == service_lines(agent.pipeline)
    shown = "\n".join(status_lines(status_document(agent.pipeline, RING, None)))
    assert "4 began, 0 spans, 75.00 % captured" in shown
    assert "3 not sampled" in shown
