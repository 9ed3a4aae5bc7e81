"""Exchanges and identities for tests: one plain example, of which a test changes what it is about."""

from dataclasses import replace
from typing import Any

from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome, Role, Unknown
from otel_ebpf.records.kinds import Lookup, ServiceIdentity
from otel_ebpf.telemetry.places import Places
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.spans import SpanBuilder, SpanData
from otel_ebpf.telemetry.trace_context import IdSource

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
LOCALHOST = bytes((127, 0, 0, 1)).ljust(16, b"\0")
PEER = bytes((10, 0, 0, 9)).ljust(16, b"\0")

PLACES = Places(IdSource(b"seed"))

EXCHANGE = Exchange(
    connection=7,
    position=2,
    pid=100,
    tid=101,
    service_pid=99,
    role=Role.SERVER,
    family=AF_INET,
    local_address=LOCALHOST,
    local_port=8080,
    remote_address=PEER,
    remote_port=40001,
    method=b"GET",
    target=b"/items/7?colour=red",
    version=b"1.1",
    host=b"shop.example:8080",
    user_agent=b"curl/8.5",
    forwarded_for=None,
    traceparent=None,
    tracestate=None,
    status=200,
    request_start_ns=1_000,
    request_end_ns=1_100,
    response_start_ns=2_000,
    response_end_ns=3_000,
    end_ns=3_000,
    request_bytes=90,
    response_bytes=150,
    request_body_bytes=0,
    response_body_bytes=12,
    outcome=Outcome.COMPLETE,
    unknown=Unknown.NOTHING,
    inferred=Inferred.NOTHING,
)


LOOKUP = Lookup(
    is_same_thread=True,
    is_only_name=True,
    pid=100,
    tid=101,
    connection=7,
    former_connection=0,
    start_monotonic_ns=100,
    end_monotonic_ns=600,
    answers=((AF_INET, PEER), (AF_INET6, bytes.fromhex("20010db8000000000000000000000009"))),
    name=b"shop.example",
)


def lookup(**changes: Any) -> Lookup:
    return LOOKUP._replace(**changes)


def exchange(**changes: Any) -> Exchange:
    return replace(EXCHANGE, **changes)


def client_exchange(**changes: Any) -> Exchange:
    return replace(EXCHANGE, role=Role.CLIENT, remote_port=8080, **changes)


def span_of(changed: Exchange, **limits: Any) -> SpanData:
    return SpanBuilder(**limits).build(changed, PLACES.of(changed), offset_ns=1_000_000)


def build(builder: SpanBuilder, changed: Exchange, route: bytes | None = None) -> SpanData:
    return builder.build(changed, PLACES.of(changed), 0, route)


def attributes_of(changed: Exchange, **limits: Any) -> dict[str, Any]:
    span = span_of(changed, **limits)
    return dict(span.all_attributes)


IDENTITY = ServiceIdentity(
    pid=4321,
    start_ticks=777,
    command=b"python3",
    executable=b"/usr/bin/python3.11",
    argv=(b"python3", b"/srv/shop/pay.py", b"--password=hunter2"),
    environ={},
    working_directory=b"/srv/shop",
    container_id="",
    listening_ports=(8080,),
    owner="www-data",
)
HOST = HostFacts(name="web1", id="0123456789abcdef", arch="amd64", os_type="linux")


def identity(**changes: Any) -> ServiceIdentity:
    return replace(IDENTITY, **changes)
