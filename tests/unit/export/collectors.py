"""Collectors on loopback that take, refuse, stall and lie, over real sockets."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from gzip import decompress
from typing import Any, BinaryIO

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from otel_ebpf.otlp_settings import OtlpSettings
from tests.services import processes
from tests.services.processes import free_port

DEADLINE_SECONDS = 60.0  # only a failure waits for so long


def wait_until(is_so: Callable[[], object], what: str) -> None:
    processes.wait_until(is_so, what, seconds=DEADLINE_SECONDS, every_s=0.005)


def settings(endpoint: str, **changes: Any) -> OtlpSettings:
    plain = {
        "endpoint": endpoint,
        "protocol": "http/protobuf",
        "headers": (),
        "timeout_ms": 10_000,
        "compression": "none",
        "certificate": None,
        "client_key": None,
        "client_certificate": None,
        "insecure": endpoint.startswith("http://"),
    }
    return OtlpSettings(**{**plain, **changes})


@dataclass
class Received:
    """One request as a collector saw it."""

    head: bytes
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}

    @property
    def plain_body(self) -> bytes:
        return decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body

    def names(self) -> list[str]:
        return span_names(ExportTraceServiceRequest.FromString(self.plain_body))

    def metrics(self) -> ExportMetricsServiceRequest:
        return ExportMetricsServiceRequest.FromString(self.plain_body)


def span_names(request: ExportTraceServiceRequest) -> list[str]:
    return [span.name for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]


# What a scripted collector does with a request: bytes to answer, or one of these.
STALL, HANG_UP, HANG_UP_EARLY, TRICKLE = "stall", "hang up", "hang up before the body is read", "a byte at a time"
Answer = bytes | str | Callable[["Received"], bytes]


@dataclass
class HttpCollector:
    """Answers each request with the next of `answers`, and the last one again and again."""

    port: int
    answers: list[Answer]
    received: list[Received] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    def names(self) -> list[str]:
        return [name for request in self.received for name in request.names()]

    def serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        try:
            while head := read_head(stream):
                received = Received(head, b"")
                if self.answers[0] == HANG_UP_EARLY:
                    self.answers.pop(0)
                    break
                received.body = stream.read(int(received.headers["content-length"]))
                self.received.append(received)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer == HANG_UP:
                    break
                if answer == TRICKLE:
                    trickle(connection)
                elif answer != STALL:
                    connection.sendall(answer(received) if callable(answer) else answer)
        except OSError:
            return  # the test ends, or the sender gave up
        finally:
            stream.close()
            connection.close()


def trickle(connection: socket.socket) -> None:
    """An answer that never ends, and never pauses for long; until the other side has gone."""
    connection.settimeout(0.02)
    while True:
        connection.sendall(b"H")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue


def read_head(stream: BinaryIO) -> bytes:
    """Request line and headers; nothing at the end of the connection."""
    head = b""
    while (line := stream.readline()) not in (b"", b"\r\n"):
        head += line
    return head


def answer(status: str, body: bytes = b"", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/x-protobuf"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OK = answer("200 OK")


def at_most(limit_bytes: int) -> Callable[["Received"], bytes]:
    """A collector, or a proxy before it, with a bound on the body."""
    return lambda received: OK if len(received.body) <= limit_bytes else answer("413 Content Too Large")


def partial(rejected: int, message: str) -> ExportTraceServiceResponse:
    return ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    )


@contextmanager
def http_collector(*answers: Answer, port: int | None = None, tls: Any = None) -> Iterator[HttpCollector]:
    collector = HttpCollector(port or free_port(), list(answers) or [OK])
    listener = socket.create_server(("127.0.0.1", collector.port))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
            except OSError:
                if listener.fileno() == -1:
                    return
                continue  # a handshake that failed
            collector.connections.append(connection)
            threading.Thread(target=collector.serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in collector.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        thread.join(DEADLINE_SECONDS)


Behaviour = Callable[[grpc.ServicerContext], ExportTraceServiceResponse]


class GrpcCollector(TraceServiceServicer):
    """Answers each call by the next of `behaviours`, and by the last one again and again."""

    def __init__(self, port: int, behaviours: list[Behaviour]) -> None:
        self.port = port
        self.behaviours = behaviours
        self.received: list[ExportTraceServiceRequest] = []
        self.metrics = GrpcMetrics()
        self.metadata: list[dict[str, str]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def names(self) -> list[str]:
        return [name for request in self.received for name in span_names(request)]

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:  # noqa: N802
        self.received.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        behave = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        return behave(context)


class GrpcMetrics(MetricsServiceServicer):
    """Takes metrics."""

    def __init__(self) -> None:
        self.received: list[ExportMetricsServiceRequest] = []

    def Export(  # noqa: N802
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> ExportMetricsServiceResponse:
        self.received.append(request)
        return ExportMetricsServiceResponse()


def partial_metrics(rejected: int, message: str) -> ExportMetricsServiceResponse:
    return ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=rejected, error_message=message)
    )


def take(context: grpc.ServicerContext) -> ExportTraceServiceResponse:
    return ExportTraceServiceResponse()


def stall(context: grpc.ServicerContext) -> ExportTraceServiceResponse:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while context.is_active() and time.monotonic() < deadline:
        time.sleep(0.01)
    return ExportTraceServiceResponse()


def failing(code: grpc.StatusCode, details: str = "no", metadata: tuple[tuple[str, bytes], ...] = ()) -> Behaviour:
    def behave(context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        context.set_trailing_metadata(metadata)
        context.abort(code, details)
        raise AssertionError("abort raises")

    return behave


def retry_info(seconds: float) -> tuple[tuple[str, bytes], ...]:
    """As collectors send it: google.rpc.Status with a RetryInfo among its details."""
    packed = AnyMessage()
    packed.Pack(RetryInfo(retry_delay=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))))
    return (("grpc-status-details-bin", Status(code=8, details=[packed]).SerializeToString()),)


@contextmanager
def grpc_collector(
    *behaviours: Behaviour,
    port: int | None = None,
    credentials: grpc.ServerCredentials | None = None,
    most_bytes: int = 4 << 20,
) -> Iterator[GrpcCollector]:
    collector = GrpcCollector(port or free_port(), list(behaviours) or [take])
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", most_bytes)))
        add_TraceServiceServicer_to_server(collector, server)
        add_MetricsServiceServicer_to_server(collector.metrics, server)
        address = f"127.0.0.1:{collector.port}"
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
        server.start()
        try:
            yield collector
        finally:
            server.stop(0).wait()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6  # RFC 9113, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STATUS_200 = b"\x88"  # RFC 7541, Appendix A: 8 is `:status: 200`
EMPTY_MESSAGE = bytes(5)  # gRPC: not compressed, no bytes


def literal(name: bytes, value: bytes) -> bytes:
    """A header as HPACK writes it without any table (RFC 7541, 6.2.2)."""
    return b"\0%c%s%c%s" % (len(name), name, len(value), value)


@dataclass
class Http2Collector:
    """What a gRPC server never does by itself: each call ends as the next of `answers` says, HANG_UP or an HTTP status."""

    port: int
    answers: list[str]
    calls: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            stream.read(len(PREFACE))
            while head := stream.read(9):
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                payload = stream.read(length)
                if kind in (SETTINGS, PING) and not flags & ACK:
                    if kind == SETTINGS:
                        self.send(stream, SETTINGS, 0, bytes(4), b"")
                    self.send(stream, kind, ACK, bytes(4), payload if kind == PING else b"")
                elif kind == HEADERS:
                    self.calls += 1
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    if answer == HANG_UP:
                        return  # the message is still being sent
                    self.answer(stream, head[5:9], answer.encode())

    def answer(self, stream: BinaryIO, number: bytes, status: bytes) -> None:
        if status != b"200":
            block = b"\x08\x03" + status + literal(b"location", b"http://127.0.0.1:1/")
            self.send(stream, HEADERS, END_STREAM | END_HEADERS, number, block)
            return
        self.send(stream, HEADERS, END_HEADERS, number, STATUS_200 + literal(b"content-type", b"application/grpc"))
        self.send(stream, DATA, 0, number, EMPTY_MESSAGE)
        self.send(stream, HEADERS, END_STREAM | END_HEADERS, number, literal(b"grpc-status", b"0"))

    @staticmethod
    def send(stream: BinaryIO, kind: int, flags: int, number: bytes, payload: bytes) -> None:
        stream.write(len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number + payload)
        stream.flush()


@contextmanager
def http2_collector(*answers: str) -> Iterator[Http2Collector]:
    collector = Http2Collector(free_port(), list(answers))
    with accepting(collector.port, collector.serve):
        yield collector


@contextmanager
def accepting(port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serves each connection in a thread."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve_one(client: socket.socket) -> None:
        with suppress(OSError):  # the other side has gone
            serve(client)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_SECONDS)


@dataclass
class Proxy:
    """A forward proxy: absolute-form requests, and tunnels."""

    port: int
    heads: list[bytes] = field(default_factory=list)

    def serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            head = read_head(stream)
            self.heads.append(head)
            method, target, _ = head.split(b" ", 2)
            host = target if method == b"CONNECT" else target.split(b"/")[2]
            _, _, port = host.rpartition(b":")
            # What is asked for is a name that only the proxy knows.
            with socket.create_connection(("127.0.0.1", int(port))) as server:
                if method == b"CONNECT":
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    server.sendall(head + b"\r\n")
                back = threading.Thread(target=copy, args=(server.recv, client), daemon=True)
                back.start()
                copy(lambda size: stream.read1(size), server)
                back.join(DEADLINE_SECONDS)


def copy(read: Callable[[int], bytes], to: socket.socket) -> None:
    try:
        while piece := read(65536):
            to.sendall(piece)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side has gone


@contextmanager
def forward_proxy() -> Iterator[Proxy]:
    proxy = Proxy(free_port())
    with accepting(proxy.port, proxy.serve):
        yield proxy
