"""The small web server: what it answers, and whom it keeps out."""

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from otel_ebpf.errors import AgentError
from otel_ebpf.export.pages import MAX_CONNECTIONS, Page, PageServer
from otel_ebpf.setting_values import Listen
from tests.unit.export.collectors import free_port


def hello(accept: str) -> Page:
    return Page(200, "text/plain", f"hello, {accept}".encode())


@contextmanager
def serving(make: Callable[[str], Page] = hello, host: str = "127.0.0.1") -> Iterator[int]:
    port = free_port()
    server = PageServer(Listen(host, port), "OTEL_EBPF_X_PORT", {"/hello": make})
    server.start()
    try:
        yield port
    finally:
        server.close()


def ask(port: int, path: str = "/hello", method: str = "GET", host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request(method, path, headers={"Accept": "words"})
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_a_page_is_made_for_each_request() -> None:
    with serving() as port:
        assert (200, b"hello, words") == ask(port)
        assert (200, b"hello, words") == ask(port, "/hello?query=is+ignored")
        assert (200, b"") == ask(port, method="HEAD")


def test_what_is_not_there_is_not_found_and_nothing_can_be_sent() -> None:
    with serving() as port:
        assert 404 == ask(port, "/")[0]
        assert 501 == ask(port, method="POST")[0]


@pytest.mark.parametrize(
    "request_bytes", [b"\x16\x03\x01\xff\xff", b"GET /hello\r\n\r\n\r\n", b"X" * 70_000 + b"\r\n\r\n"]
)
def test_what_is_no_request_harms_nobody(request_bytes: bytes) -> None:
    with serving() as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(request_bytes)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        assert 200 == ask(port)[0]


def test_one_connection_serves_many_requests() -> None:
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(3):
            connection.request("GET", "/hello")
            assert b"hello, " == connection.getresponse().read()
        connection.close()


def test_silent_connections_keep_nobody_out() -> None:
    """The oldest gives way."""
    with serving() as port:
        silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(MAX_CONNECTIONS + 3)]
        assert (200, b"hello, words") == ask(port)
        assert b"" == silent[0].recv(1)
        for client in silent:
            client.close()


def test_all_addresses_are_those_of_ipv6_as_well() -> None:
    with serving(host="") as port:
        assert 200 == ask(port)[0]
        if socket.has_dualstack_ipv6():
            assert 200 == ask(port, host="::1")[0]


def test_a_port_that_is_taken_is_told_with_the_setting() -> None:
    with serving() as port, pytest.raises(AgentError) as error:
        PageServer(Listen("127.0.0.1", port), "OTEL_EBPF_X_PORT", {})

    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" == error.value.what
    assert "OTEL_EBPF_X_PORT" in error.value.remedy
