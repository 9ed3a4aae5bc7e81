"""Records of made-up traffic, as the kernel would write them into the ring.

In:   how varied it is
Out:  for each exchange its samples, and the values that an instrumentation inside the service would have seen
Owns: nothing

`one_path` is the kindest case there is: one request again and again on few connections. `varied` is meant to be like a shop's
front: 5,000 paths with ids behind six routes, 200 clients on 300 connections at a time, twenty requests on each, user agents,
queries, bodies, statuses, response sizes, a Date that goes on; one request in four has a traceparent. Both are the same at
each run.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.records.kinds import Kind, Record, RecordFlag
from otel_ebpf.records.layouts import RECORD

SERVICE_PIDS = (7, 8, 9)
LISTENING_PORT = 8080
HOST = b"shop.example:8080"
_SERVER = bytes((10, 0, 0, 1)).ljust(16, b"\0")
_PATHS = 5_000
_OPEN_CONNECTIONS = 300
_REQUESTS_OF_CONNECTION = 20
_AGENTS = [
    b"Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/%d.0" % version for version in range(100, 108)
]
_TEMPLATES = (
    (b"GET", b"/shops/%d/items/%d", b"/shops/{id}/items/{id}"),
    (b"GET", b"/users/%d/orders/%d/lines", b"/users/{id}/orders/{id}/lines"),
    (b"GET", b"/items/%d/reviews?page=%d&sort=new", b"/items/{id}/reviews"),
    (b"POST", b"/carts/%d/items?item=%d", b"/carts/{id}/items"),
    (b"PUT", b"/users/%d/addresses/%d", b"/users/{id}/addresses/{id}"),
    (b"GET", b"/search/%d/pages/%d?q=red+shoes", b"/search/{id}/pages/{id}"),
)
_STATUSES = [200] * 16 + [201, 304, 404, 500]


class Made(NamedTuple):
    """One exchange, and what an SDK inside the service would be told of it."""

    samples: tuple[bytes, bytes]
    method: bytes
    target: bytes
    route: bytes
    status: int
    user_agent: bytes
    client: str
    client_port: int
    request_body_bytes: int
    response_body_bytes: int
    start_ns: int
    end_ns: int


class _Client:
    """A connection."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number = number
        self.sent = 0
        self.address = bytes((10, 0, chance.randrange(1, 3), chance.randrange(1, 101))).ljust(16, b"\0")
        self.port = chance.randrange(32768, 60999)
        self.agent = chance.choice(_AGENTS)
        self.service_pid = chance.choice(SERVICE_PIDS)


def one_path(count: int) -> Iterator[Made]:
    chance = random.Random(1)
    clients = [_Client(number, chance) for number in range(8)]
    for number in range(count):
        yield _made(
            clients[number % 8], number * 50_000, b"GET", b"/items/17/reviews", b"/items/{id}/reviews", 200, 0, 512
        )


def varied(count: int) -> Iterator[Made]:
    chance = random.Random(2)
    clients = [_Client(number, chance) for number in range(_OPEN_CONNECTIONS)]
    opened = len(clients)
    for number in range(count):
        place = chance.randrange(_OPEN_CONNECTIONS)
        if clients[place].sent == _REQUESTS_OF_CONNECTION:
            clients[place] = _Client(opened, chance)
            opened += 1
        path = chance.randrange(_PATHS)
        method, target, route = _TEMPLATES[path % len(_TEMPLATES)]
        body_bytes = 0 if method == b"GET" else 40 + path % 200
        status = chance.choice(_STATUSES)
        response_bytes = 0 if status == 304 else 100 + 7 * path
        trace = chance.randbytes(24).hex().encode() if not number % 4 else b""
        yield _made(
            clients[place],
            number * 50_000 + chance.randrange(40_000),
            method,
            target % (path, path % 17),
            route,
            status,
            body_bytes,
            response_bytes,
            trace,
        )


def _made(
    client: _Client,
    at_ns: int,
    method: bytes,
    target: bytes,
    route: bytes,
    status: int,
    request_body_bytes: int,
    response_body_bytes: int,
    trace: bytes = b"",
) -> Made:
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: " + HOST, b"User-Agent: " + client.agent]
    lines += [b"Accept: text/html,application/json;q=0.9", b"Accept-Encoding: gzip, deflate", b"Connection: keep-alive"]
    if trace:
        lines.append(b"traceparent: 00-%b-%b-01" % (trace[:32], trace[32:]))
    if request_body_bytes:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % request_body_bytes]
    request = b"\r\n".join((*lines, b"", b"")) + b"x" * request_body_bytes
    # Bodies of responses mostly follow in the same call, and only its first bytes are captured.
    head = b"\r\n".join(
        (
            b"HTTP/1.1 %d OK" % status,
            b"Server: nginx/1.22.1",
            b"Date: Sat, 21 Nov 2026 10:%02d:%02d GMT" % (at_ns // 10**9 // 60 % 60, at_ns // 10**9 % 60),
            b"Content-Type: application/json",
            b"Content-Length: %d" % response_body_bytes,
            b"Connection: keep-alive",
            b"",
            b"",
        )
    )
    response = (head + b"y" * response_body_bytes)[:2048]
    end_ns = at_ns + 1_000_000 + at_ns % 9_000_000
    response_bytes = len(head) + response_body_bytes
    samples = (
        _sample(client, Kind.REQUEST, at_ns, request, len(request), (len(request), 0), (at_ns, 0)),
        _sample(
            client, Kind.RESPONSE, end_ns, response, response_bytes, (len(request), response_bytes), (at_ns, end_ns)
        ),
    )
    client.sent += 1
    address = ".".join(map(str, client.address[:4]))
    return Made(
        samples,
        method,
        target,
        route,
        status,
        client.agent,
        address,
        client.port,
        request_body_bytes,
        response_body_bytes,
        at_ns,
        end_ns,
    )


def _sample(
    client: _Client,
    kind: Kind,
    at_ns: int,
    payload: bytes,
    total_bytes: int,
    counted_bytes: tuple[int, int],
    last_ns: tuple[int, int],
) -> bytes:
    # Whoever made the request might be watched on this host, so it is looked for.
    sequence = client.number * 1_000_003 + client.sent * 500 + 1 if kind == Kind.REQUEST else 0
    *fields, _ = Record(
        kind, 0, Role.SERVER, 2, 0, RecordFlag.ROLE_BY_CONNECTION, len(payload),
        client.service_pid, client.service_pid, client.service_pid, client.sent, 1000 + client.number,
        at_ns, *counted_bytes, *last_ns, total_bytes, LISTENING_PORT, client.port,
        _SERVER, client.address, payload[-8:], 0, 0, 0, 0, 4026531840, sequence, payload,
    )  # fmt: skip
    return RECORD.pack(*fields) + payload
