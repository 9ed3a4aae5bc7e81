"""Every server of the table: N requests sent are N SERVER spans, each equal to what its client saw."""

import pytest

from tests.end_to_end.sink import SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences
from tests.services.plan import all_calls, make_call
from tests.services.processes import free_port
from tests.services.servers import SERVERS, calls_for


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_every_request_is_one_right_span(name: str, keep_alive: bool, prefix: str, stage: Stage) -> None:
    """Method, path, status, body sizes and duration, for a service that was there before the agent.

    Those that speak TLS speak 1.3 where connections are kept, and 1.2 where they are not.
    """
    server = stage.server(name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    tls_version = "TLSv1.3" if keep_alive else "TLSv1.2"
    client = stage.client(
        "http.client", server, calls_for(name, prefix), keep_alive=keep_alive, tls_version=tls_version
    )

    results = client.send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, SERVER, are_bodies_read=SERVERS[name].reads_bodies)
    assert len(results) == len(spans), "a server's requests are no calls of its own"


@pytest.mark.parametrize("name", ["nginx", "http.server", "gunicorn-sync", "uvicorn-uvloop-httptools", "node", "go"])
def test_first_request_of_a_service_that_starts_after_the_agent_is_seen(name: str, prefix: str, stage: Stage) -> None:
    """The kernel itself marks the process as a target when it listens, so there is no gap."""
    port = free_port()
    stage.agent(OTEL_EBPF_OPEN_PORT=port)
    server = stage.server(name, port=port)

    results = stage.client("http.client", server, calls_for(name, prefix)[:3]).send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, SERVER)


@pytest.mark.parametrize("name", ["uvicorn-uvloop-httptools", "node", "go", "aiohttp"])
def test_slow_response_lasts_until_its_end(name: str, prefix: str, stage: Stage) -> None:
    """Not shorter than the handler slept: the end is the last byte of the response."""
    server = stage.server(name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    calls = [make_call(f"{prefix}slow", "GET", 200, 1000, delay_ms=300)]

    results = stage.client("http.client", server, calls).send()

    spans = stage.sink.wait_for(1, belongs_to(prefix))
    assert [] == differences(results, spans, SERVER)
    assert spans[0].duration_ns >= 300_000_000


@pytest.mark.parametrize("name", ["gunicorn-sync", "gunicorn-gthread"])
def test_prefork_workers_are_one_service(name: str, prefix: str, stage: Stage) -> None:
    """One service.name and one service.instance.id, whichever worker served."""
    server = stage.server(name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    clients = [
        stage.client("http.client", server, all_calls(f"{prefix}{number}"), keep_alive=False) for number in range(2)
    ]
    results = [result for calling in clients for result in calling.send()]

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, SERVER)
    assert 1 == len({identity(span) for span in spans})


def identity(span: Span) -> tuple[str, str]:
    return span.resource["service.name"], span.resource["service.instance.id"]


def test_service_is_named_by_its_own_environment(prefix: str, stage: Stage) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES of the target, not of the agent."""
    server = stage.server("go", OTEL_SERVICE_NAME="shop", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    stage.client("http.client", server, all_calls(prefix)[:1]).send()

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert "shop" == span.resource["service.name"]
    assert "test" == span.resource["deployment.environment.name"]


def test_incoming_traceparent_is_honoured(prefix: str, stage: Stage) -> None:
    """W3C Trace Context: the span joins the caller's trace, below its span; also where the header stands late."""
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    traceparent = {"traceparent": f"00-{trace_id}-{parent_id}-01"}
    padding = {f"X-Padding-{number}": "p" * 50 for number in range(6)}
    server = stage.server("go")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    calls = [
        make_call(f"{prefix}early", "GET", headers=traceparent),
        make_call(f"{prefix}late", "GET", headers={**padding, **traceparent}),
        make_call(f"{prefix}none", "GET"),
    ]

    stage.client("http.client", server, calls).send()

    early, late, none = sorted(stage.sink.wait_for(3, belongs_to(prefix)), key=lambda span: span.start_unix_ns)
    assert (trace_id, parent_id) == (early.trace_id.hex(), early.parent_span_id.hex())
    assert (trace_id, parent_id) == (late.trace_id.hex(), late.parent_span_id.hex())
    assert b"" == none.parent_span_id
    assert trace_id != none.trace_id.hex()


@pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
def test_addresses_are_those_of_the_connection(kind: str, prefix: str, stage: Stage) -> None:
    """network.peer.address of the client, server.address and server.port as the client asked for them."""
    server = stage.go_server(kind)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    results = stage.client("http.client", server, all_calls(prefix)).send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, SERVER)
    assert {server.host} == {span.attributes["network.peer.address"] for span in spans}
    assert {(server.host, server.port)} == {
        (span.attributes["server.address"], span.attributes["server.port"]) for span in spans
    }


def test_unix_socket_has_no_addresses(prefix: str, stage: Stage) -> None:
    """Unknown is absent: a Unix socket's peer has neither address nor port."""
    server = stage.go_server("unix")
    stage.agent(OTEL_EBPF_TARGET_PID=server.pid)

    results = stage.client("http.client", server, all_calls(prefix)).send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, SERVER)
    assert set() == {name for span in spans for name in span.attributes if name.startswith("network.peer")}
