"""Both ends of a connection on one host: the server's span is the child of the client's, without any header."""

import pytest

from tests.end_to_end.sink import CLIENT, SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.plan import Call, make_call
from tests.services.processes import free_port
from tests.services.servers import SERVERS, nginx_of_many_addresses

CALLS = 120
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200


def calls_of(prefix: str, *, with_bodies: bool = True, count: int = CALLS) -> list[Call]:
    """Of different methods and sizes in turn."""
    shapes = [("GET", 1000, 0), ("GET", 65536, 0)]
    if with_bodies:
        shapes += [("POST", 0, 1000), ("POST", 1000, 65536)]
    made = []
    for number in range(count):
        method, received, sent = shapes[number % len(shapes)]
        made.append(make_call(f"{prefix}{number:03}", method, 200, received, sent=sent))
    return made


def unlinked(spans: list[Span]) -> list[str]:
    """Servers' spans that are not the child of the one client's span with the same target, in its trace."""
    clients = {target_of(span): span for span in spans if span.kind == CLIENT}
    found = []
    for span in spans:
        if span.kind != SERVER:
            continue
        client = clients[target_of(span)]
        wanted = (client.trace_id, client.span_id, HAS_IS_REMOTE)
        seen = (span.trace_id, span.parent_span_id, span.flags & (HAS_IS_REMOTE | IS_REMOTE))
        if wanted != seen:
            found.append(f"{target_of(span)}: {seen}, not {wanted}")
    return found


PAIRS = [
    ("go", "http.client"),
    ("node", "aiohttp"),
    ("gunicorn-sync", "requests"),
    ("uvicorn-uvloop-httptools", "httpx"),
    ("nginx-tls", "http.client"),
    ("uvicorn-asyncio-tls", "httpx"),
    ("gunicorn-gthread-tls", "aiohttp"),
    ("node-tls", "node"),
]


@pytest.mark.parametrize(("server_name", "client_name"), PAIRS)
@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept-alive", "one-each"])
def test_every_servers_span_is_the_child_of_its_clients(
    server_name: str, client_name: str, keep_alive: bool, prefix: str, stage: Stage
) -> None:
    """Plain text and TLS, one connection or one for each request."""
    server = stage.server(server_name)
    calls = calls_of(prefix, with_bodies=not SERVERS[server_name].wants_bodies_first)
    client = stage.client(client_name, server, calls, keep_alive=keep_alive)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_TARGET_PID=client.pid)

    client.send()

    spans = stage.sink.wait_for(2 * len(calls), belongs_to(prefix))
    assert [] == unlinked(spans)
    assert [] == [target_of(span) for span in spans if span.kind == CLIENT and span.parent_span_id]


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix"])
@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept-alive", "one-each"])
def test_what_a_proxy_calls_is_linked_whatever_the_socket(
    kind: str, keep_alive: bool, prefix: str, stage: Stage
) -> None:
    """curl is not watched; nginx is, at both sides, and so is what is behind it. What joins the two sides of nginx is
    no affair of connections."""
    behind = stage.go_server(kind)
    proxy = stage.proxy(behind, keep_alive=keep_alive)
    calls = calls_of(prefix)
    client = stage.client("curl", proxy, calls)
    stage.agent(OTEL_EBPF_OPEN_PORT=proxy.port, OTEL_EBPF_TARGET_PID=behind.pid)

    client.send()

    spans = stage.sink.wait_for(3 * len(calls), belongs_to(prefix))
    outer = [
        span
        for span in spans
        if span.kind == SERVER and span.attributes.get("network.peer.port") and span.resource["service.name"] == "nginx"
    ]
    inner = [span for span in spans if span not in outer]
    assert (len(calls), 2 * len(calls)) == (len(outer), len(inner))
    assert [] == unlinked(inner)
    assert [] == [span for span in outer if span.parent_span_id]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_each_of_200_tls_connections_at_once_has_its_own_children(loop: str, prefix: str, stage: Stage) -> None:
    """Their requests are all under way together; whose record comes first is up to the machine."""
    ports = [free_port() for _ in range(4)]
    peers = [(f"127.0.1.{1 + number // 4}", ports[number % 4]) for number in range(200)]
    server = stage.ends.enter_context(nginx_of_many_addresses(stage.new_folder("nginx"), peers))
    calls = [make_call(f"{prefix}{number:03}", "GET", 200, 1000) for number in range(5 * len(peers))]
    client = stage.client("many-peers", server, calls, peers=peers, loop=loop)
    stage.agent(OTEL_EBPF_OPEN_PORT=",".join(map(str, ports)), OTEL_EBPF_TARGET_PID=client.pid)

    client.send()

    spans = stage.sink.wait_for(2 * len(calls), belongs_to(prefix))
    assert [] == unlinked(spans)
