"""Collectors for tests: receive OTLP over HTTP or gRPC with the official classes and keep all of it.

In:   exports of the agent
Out:  Spans and metrics, in the order of arrival
Owns: one listening port

A strict parser on purpose: a batch that the official classes refuse is answered with 400 and remembered as a fault.
"""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.services.processes import free_port, wait_until

SERVER, CLIENT = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT
ERROR = trace_pb2.Status.STATUS_CODE_ERROR


@dataclass
class Event:
    name: str
    unix_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Span:
    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    trace_state: str
    flags: int
    start_unix_ns: int
    end_unix_ns: int
    status_code: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[Event] = field(default_factory=list)

    @property
    def duration_ns(self) -> int:
        return self.end_unix_ns - self.start_unix_ns


def plain(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, which) if which else None


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource_spans in request.resource_spans:
        resource = {pair.key: plain(pair.value) for pair in resource_spans.resource.attributes}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                names = [pair.key for pair in span.attributes]
                assert len(names) == len(set(names)), f"attribute twice in one span: {names}"
                yield Span(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id,
                    span_id=span.span_id,
                    parent_span_id=span.parent_span_id,
                    trace_state=span.trace_state,
                    flags=span.flags,
                    start_unix_ns=span.start_time_unix_nano,
                    end_unix_ns=span.end_time_unix_nano,
                    status_code=span.status.code,
                    attributes={pair.key: plain(pair.value) for pair in span.attributes},
                    resource=resource,
                    events=[
                        Event(
                            event.name, event.time_unix_nano, {pair.key: plain(pair.value) for pair in event.attributes}
                        )
                        for event in span.events
                    ],
                )


@dataclass
class Sink:
    """What has arrived; filled by server threads, read by tests."""

    endpoint: str
    protocol: str
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)
    span_count: int = 0
    refuse_with: int | None = None  # an HTTP status: what a sick collector answers
    keeps_spans: bool = True  # false: only counts them
    look: Callable[[ExportTraceServiceRequest], None] | None = None  # for who keeps no spans
    first_arrival_monotonic_ns: int | None = None

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self.arrived:
            if self.first_arrival_monotonic_ns is None:
                self.first_arrival_monotonic_ns = time.monotonic_ns()
            if self.keeps_spans:
                self.requests.append(request)
            if self.look is not None:
                self.look(request)
            self.span_count += sum(len(scope.spans) for part in request.resource_spans for scope in part.scope_spans)
            self.arrived.notify_all()

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        with self.arrived:
            self.metrics.append(request)
            self.arrived.notify_all()

    def clear(self) -> None:
        """Of spans that have arrived, forgets all."""
        with self.arrived:
            self.requests.clear()

    @property
    def spans(self) -> list[Span]:
        with self.arrived:
            requests = list(self.requests)
        return [span for request in requests for span in spans_of(request)]

    def wait_for(
        self, count: int, is_wanted: Callable[[Span], bool], *, seconds: float = 60.0, settle_s: float = 0.5
    ) -> list[Span]:
        """All wanted spans, once `count` have come and no more within `settle_s`; fewer after `seconds`.

        Says nothing of equality: the caller compares, so that a failure shows what is missing or too many.
        """
        parsed = 0
        wanted: list[Span] = []

        def enough() -> bool:
            nonlocal parsed
            with self.arrived:
                fresh = self.requests[parsed:]
            parsed += len(fresh)
            wanted.extend(span for request in fresh for span in spans_of(request) if is_wanted(span))
            return len(wanted) >= count

        try:
            wait_until(enough, f"{count} spans", seconds=seconds)
        except AssertionError:
            return wanted
        before = len(wanted)
        with suppress(AssertionError):  # the good case: nothing more comes
            wait_until(lambda: enough() and len(wanted) > before, "a span too many", seconds=settle_s)
        return wanted


def http_handler(sink: Sink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = sink.refuse_with, b""
            if status is None:
                try:
                    plain_body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                    if self.path == "/v1/metrics":
                        sink.take_metrics(ExportMetricsServiceRequest.FromString(plain_body))
                    else:
                        sink.take(ExportTraceServiceRequest.FromString(plain_body))
                    status = 200  # an empty answer is one of either kind, in which everything was taken
                except (DecodeError, OSError) as error:
                    sink.faults.append(repr(error))
                    status = 400
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """The test's output is for the test."""

    return Handler


@contextmanager
def http_sink(port: int = 0) -> Iterator[Sink]:
    port = port or free_port()
    sink = Sink(f"http://127.0.0.1:{port}", "http/protobuf")
    server = ThreadingHTTPServer(("127.0.0.1", port), http_handler(sink))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [] == sink.faults, "the agent sent what is not OTLP"


@contextmanager
def grpc_sink(port: int = 0) -> Iterator[Sink]:
    port = port or free_port()
    sink = Sink(f"http://127.0.0.1:{port}", "grpc")

    class Servicer(TraceServiceServicer):
        def Export(  # noqa: N802 (the service's own name)
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            sink.take(request)
            return ExportTraceServiceResponse()

    class MetricsServicer(MetricsServiceServicer):
        def Export(  # noqa: N802 (the service's own name)
            self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
        ) -> ExportMetricsServiceResponse:
            sink.take_metrics(request)
            return ExportMetricsServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    add_TraceServiceServicer_to_server(Servicer(), server)
    add_MetricsServiceServicer_to_server(MetricsServicer(), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        yield sink
    finally:
        server.stop(grace=None).wait()
