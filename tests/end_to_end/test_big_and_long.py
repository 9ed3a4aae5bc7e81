"""Bodies of 100 MB and streams without an end in sight: exact sizes, one span each, no end that nobody saw."""

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.sink import CLIENT, SERVER, Sink, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.test_metrics import attributes, points
from tests.end_to_end.truth import CLOCK_TOLERANCE_NS, belongs_to
from tests.services.event_stream import FIRST, LAST
from tests.services.plan import Call
from tests.services.processes import wait_until
from tests.services.servers import Running, event_stream, storing_nginx

SIZE = 100_000_000


def facts(span: Span) -> tuple[object, ...]:
    names = ("http.request.method", "http.response.status_code", "http.request.body.size", "http.response.body.size")
    return tuple(span.attributes.get(name) for name in names)


def test_an_upload_and_a_download_of_100_mb_are_one_span_each_with_the_exact_sizes(prefix: str, stage: Stage) -> None:
    """nginx stores what is PUT and sends it by sendfile; both sides are watched, on one connection, and a small file after."""
    server = stage.ends.enter_context(storing_nginx(stage.new_folder("nginx")))
    calls = [
        Call(f"{prefix}1", "PUT", f"/{prefix}big", request_body_bytes=SIZE, status=201),
        Call(f"{prefix}2", "GET", f"/{prefix}big", response_body_bytes=SIZE),
        Call(f"{prefix}3", "PUT", f"/{prefix}small", request_body_bytes=1, status=201),
        Call(f"{prefix}4", "GET", f"/{prefix}small", response_body_bytes=1),
    ]
    client = stage.client("http.client", server, calls)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_TARGET_PID=client.pid)
    client.send()
    spans = stage.sink.wait_for(2 * len(calls), belongs_to(prefix))

    expected = [("PUT", 201, SIZE, 0), ("GET", 200, 0, SIZE), ("PUT", 201, 1, 0), ("GET", 200, 0, 1)]
    for kind in (SERVER, CLIENT):
        own = sorted((span for span in spans if span.kind == kind), key=lambda span: span.start_unix_ns)
        assert expected == [facts(span) for span in own]
        assert all(before.end_unix_ns <= after.start_unix_ns for before, after in pairwise(own))


class Stream:
    """A client that reads events as they come."""

    def __init__(self, server: Running, prefix: str) -> None:
        self.server, self.prefix = server, prefix
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        self.connection.request("GET", f"/{prefix}events")
        self.response = self.connection.getresponse()
        assert FIRST == self.response.read(len(FIRST))

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def finish(self) -> None:
        with closing(http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)) as other:
            other.request("POST", f"/{self.prefix}finish")
            assert 204 == other.getresponse().status
        assert LAST == self.response.read()


@pytest.fixture
def events(stage: Stage) -> Iterator[Running]:
    with event_stream(stage.new_folder("events")) as server:
        yield server


def in_flight(sink: Sink) -> list[dict[str, int]]:
    """By method, of each export so far."""
    name = "http.server.active_requests"
    return [
        {attributes(point)["http.request.method"]: int(point.as_int) for point in points(request, name)}
        for request in list(sink.metrics)
    ]


def wait_until_in_flight(sink: Sink) -> None:
    """Of several exports, so that an end would have come in between."""
    wait_until(lambda: [{"GET": 1}] * 3 == in_flight(sink)[-3:], "the stream is in flight in three exports running")


def test_an_event_stream_is_in_flight_until_its_last_byte(prefix: str, events: Running, stage: Stage) -> None:
    """No span while it is open; then one, whose response began with the first event and ended with the last one."""
    agent = stage.agent(
        OTEL_EBPF_OPEN_PORT=events.port,
        OTEL_EBPF_HTTP_METRICS="duration,active_requests",
        OTEL_METRIC_EXPORT_INTERVAL="200",
        OTEL_EBPF_TRACE_PRINTER="json",
    )
    stream = stage.ends.enter_context(closing(Stream(events, prefix)))
    wait_until_in_flight(stage.sink)
    assert [] == stage.sink.spans
    finishing_unix_ns = time.time_ns()
    stream.finish()
    spans = stage.sink.wait_for(2, belongs_to(prefix, SERVER))

    (span,) = [span for span in spans if span.attributes["url.path"].endswith("events")]
    assert ("GET", 200, 0, len(FIRST + LAST)) == facts(span)
    wait_until(lambda: len(agent.printed()) == 2, "both are printed")
    (printed,) = [line for line in agent.printed() if line["path"].endswith("events")]
    assert ("complete", []) == (printed["outcome"], printed["unknown"])
    assert printed["response_start_unix_ns"] < finishing_unix_ns
    assert printed["response_end_unix_ns"] > finishing_unix_ns - CLOCK_TOLERANCE_NS
    assert span.end_unix_ns == printed["response_end_unix_ns"]
    wait_until(lambda: in_flight(stage.sink)[-1].get("GET") == 0, "nothing is in flight any more")


def test_an_event_stream_that_outlives_the_agent_gets_no_end(prefix: str, events: Running, stage: Stage) -> None:
    """What nobody saw end gives no span; the accounts name it."""
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=events.port,
        OTEL_EBPF_HTTP_METRICS="duration,active_requests",
        OTEL_METRIC_EXPORT_INTERVAL="200",
    )
    stream = stage.ends.enter_context(closing(Stream(events, prefix)))
    wait_until_in_flight(stage.sink)
    agent.assert_clean_stop()

    accounts = read_accounts(agent.messages)
    assert (1, 0, {"open at the end": 1}) == (accounts.began, accounts.spans, accounts.losses)
    assert [] == stage.sink.spans
    stream.finish()
