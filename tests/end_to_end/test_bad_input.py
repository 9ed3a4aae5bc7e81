"""Bytes that are not good HTTP: no batch is lost to them, no span invented, and the agent goes on."""

import socket
from collections.abc import Callable

import pytest

from tests.end_to_end.sink import SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences, target_of
from tests.services.plan import calls_without_body
from tests.services.servers import Running


def exchange(server: Running, request: bytes, *, then_close: bool = False, silence_s: float = 60) -> bytes:
    """What the server answers until it closes or falls silent for so long; nothing when the client closes at once."""
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(request)
        if then_close:
            return b""
        connection.settimeout(silence_s)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            return answer
        return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def spans_after(stage: Stage, server: Running, prefix: str) -> None:
    """Ordinary requests still give right spans: neither the agent nor a batch was lost."""
    results = stage.client("http.client", server, calls_without_body(f"{prefix}after")).send()
    spans = stage.sink.wait_for(len(results), belongs_to(f"{prefix}after"))
    assert [] == differences(results, spans, SERVER)


BAD: dict[str, Callable[[bytes], bytes]] = {
    "binary": lambda _: bytes(range(256)) * 16,
    "tls-client-hello": lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "only-a-method": lambda _: b"GET ",
    "http2-preface": lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "head-cut-off": lambda prefix: b"GET /" + prefix + b"cut HTTP/1.1\r\nHost: a\r\nX-Cut: ye",
    "no-version": lambda prefix: b"GET /" + prefix + b"nine\r\n\r\n",
    "line-feeds-only": lambda prefix: b"GET /" + prefix + b"lf HTTP/1.1\nHost: a\nConnection: close\n\n",
    "body-like-a-request": lambda prefix: (
        b"POST /"
        + prefix
        + b"body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 40\r\n\r\n"
        + b"GET /trap HTTP/1.1\r\nHost: trap\r\n\r\n".ljust(40)
    ),
}


@pytest.mark.parametrize("server_name", ["nginx", "go"])
@pytest.mark.parametrize("then_close", [False, True], ids=["waits", "closes"])
def test_agent_goes_on_after_bad_bytes(server_name: str, then_close: bool, prefix: str, stage: Stage) -> None:
    server = stage.server(server_name)
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    for make in BAD.values():
        exchange(server, make(prefix.encode()), then_close=then_close, silence_s=2)

    spans_after(stage, server, prefix)
    assert agent.is_running
    assert [] == [target_of(span) for span in stage.sink.spans if "trap" in target_of(span)]


@pytest.mark.parametrize("server_name", ["nginx", "http.server", "go"])
def test_invalid_utf8_in_a_path_costs_nothing_but_its_characters(server_name: str, prefix: str, stage: Stage) -> None:
    """OTLP strings are UTF-8: one bad string would make a collector refuse the whole batch."""
    server = stage.server(server_name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    path = b"/" + prefix.encode() + b"\xff\xfe\xc3(name"

    answer = exchange(server, b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert path.decode("utf-8", "replace") == span.attributes["url.path"]
    assert status_of(answer) == span.attributes["http.response.status_code"]


@pytest.mark.parametrize("server_name", ["nginx", "go", "uvicorn-asyncio-h11"])
def test_path_of_8_kilobytes_is_a_span_with_the_beginning_of_it(server_name: str, prefix: str, stage: Stage) -> None:
    """Longer than what the kernel captures: the path may be cut, never wrong, and the status is still right."""
    server = stage.server(server_name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    path = f"/{prefix}" + "p" * (8192 - len(prefix) - 1)

    answer = exchange(server, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert_beginning(path, span)
    assert status_of(answer) == span.attributes["http.response.status_code"]


@pytest.mark.parametrize("server_name", ["nginx", "go"])
def test_oversized_head_gives_the_status_that_refused_it(server_name: str, prefix: str, stage: Stage) -> None:
    """64 KB (nginx) and 2 MB (Go) of headers: the server answers before it has read all."""
    server = stage.server(server_name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    size = 64_000 if server_name == "nginx" else 2_000_000
    head = f"GET /{prefix}huge HTTP/1.1\r\nHost: a\r\nX-Huge: ".encode() + b"h" * size + b"\r\n\r\n"

    answer = refused(server, head)

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert f"/{prefix}huge" == span.attributes["url.path"]
    assert status_of(answer) == span.attributes["http.response.status_code"]
    spans_after(stage, server, prefix + "x")


def refused(server: Running, request: bytes) -> bytes:
    """Sends until the server has had enough, and still reads what it says."""
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        for at in range(0, len(request), 16384):
            try:
                connection.sendall(request[at : at + 16384])
            except (BrokenPipeError, ConnectionResetError):
                break
            connection.setblocking(False)
            try:
                return connection.recv(65536)
            except BlockingIOError:
                connection.setblocking(True)
                connection.settimeout(60)
                continue
        return connection.recv(65536)


def assert_beginning(path: str, span: Span) -> None:
    seen = span.attributes["url.path"]
    assert path.startswith(seen.rstrip("…"))
    assert len(seen) > 50
