"""`otel-ebpf status` names what it cannot see, and in which process: a real server of each kind, and its client."""

import http.client
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import closing

import pytest

from otel_ebpf.probe.programs import SocketBackend
from tests.end_to_end.agent import Agent
from tests.end_to_end.hooks import backend_in_use
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import ask_status, lines_of, numbers_of
from tests.services import nginx
from tests.services.c_programs import build_c
from tests.services.certificates import make_certificates, session_certificates
from tests.services.plan import make_call
from tests.services.processes import free_port, wait_until
from tests.services.servers import (
    SERVICES,
    Running,
    nginx_command,
    program,
    public_folder,
    serving_elsewhere,
)


class Told:
    """A server of the test, the agent that watches it, and what its status says of that server."""

    def __init__(self, stage: Stage, status_socket: str) -> None:
        self.stage = stage
        self.status_socket = status_socket

    def serve(self, command: Callable[[int], list[str]]) -> Running:
        port = free_port()
        folder = self.stage.new_folder("server")
        return self.stage.ends.enter_context(serving_elsewhere(command(port), folder, "127.0.0.1", port))

    def watch(self, server: Running, **settings: str) -> Agent:
        socket_path = self.status_socket
        return self.stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_STATUS_SOCKET=socket_path, **settings)

    def wait_for(self, server: Running, *expected: str) -> None:
        """The kernel's counts are read once a second."""
        told = ""

        def is_told() -> bool:
            nonlocal told
            told = lines_of(ask_status(self.status_socket).stdout, server.pid)
            return all(text in told for text in expected)

        try:
            wait_until(is_told, f"the status tells {expected}")
        except AssertionError as error:
            error.add_note(told)
            raise


@pytest.fixture
def told(stage: Stage, status_socket: str) -> Told:
    return Told(stage, status_socket)


def ask(server: Running) -> int:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().status


def ask_openssl(told: Told, **settings: str) -> Running:
    """One request over TLS, to a server that has OpenSSL loaded."""
    folder = told.stage.new_folder("certificates")
    folder.mkdir()
    made = make_certificates(folder)
    files = ["-cert", made.certificate, "-key", made.key]
    server = told.serve(lambda port: [program("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-www", *files])
    told.watch(server, **settings)
    context = ssl.create_default_context(cafile=made.authority)
    with closing(http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)) as client:
        client.request("GET", "/")
        assert 200 == client.getresponse().status
    return server


def test_tls_that_is_not_read_is_named_by_its_connections_and_by_the_library_that_is_loaded(told: Told) -> None:
    server = ask_openssl(told, OTEL_EBPF_TLS="off")

    unread = "1 TLS connections, of which no plain text was seen"
    told.wait_for(server, unread, f"libssl.so.3 is loaded in process {server.pid}:")


def test_tls_that_is_read_is_not_named(told: Told) -> None:
    server = ask_openssl(told)

    told.wait_for(server, "1 began, 1 spans")
    assert "not seen" not in lines_of(ask_status(told.status_socket).stdout, server.pid)


def test_http_2_is_named_by_its_connections(told: Told) -> None:
    script = str(SERVICES / "node_http2.js")
    server = told.serve(lambda port: [program("node"), script, "serve", str(port)])
    told.watch(server)
    command = [program("node"), script, "ask", str(server.port)]
    assert "200\n" == subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    told.wait_for(server, "1 connections speak HTTP/2")


def test_http_2_over_tls_is_named_by_its_connections(told: Told) -> None:
    """Both ends have agreed on it by ALPN."""
    made, public = session_certificates(), told.stage.ends.enter_context(public_folder())

    def command(port: int) -> list[str]:
        location = '    location / { return 200 "ok"; }'
        text = nginx.configuration(public, [f"127.0.0.1:{port} http2"], location, certificates=made)
        return nginx_command(public, text)

    server = told.serve(command)
    told.watch(server)
    options = ["--silent", "--show-error", "--http2", "--cacert", made.authority, "--write-out", "%{http_version}"]
    asking = [program("curl"), *options, f"https://127.0.0.1:{server.port}/"]
    assert "ok2" == subprocess.run(asking, check=True, capture_output=True, text=True, timeout=60).stdout

    told.wait_for(server, "1 connections speak HTTP/2")


def assert_seen_or_named(told: Told, server: Running, *names: str) -> None:
    """Kprobes see what this server does. Of the tracepoint's not one byte is seen, and that is told."""
    told.watch(server)
    assert 200 == ask(server)
    if backend_in_use() is SocketBackend.TRACEPOINT:
        told.wait_for(server, *names, "0 began")
        return
    told.wait_for(server, "1 began, 1 spans")
    told_lines = lines_of(ask_status(told.status_socket).stdout, server.pid)
    assert [] == [name for name in names if name in told_lines]


def test_io_uring_is_seen_or_named_by_its_process_and_its_calls(told: Told) -> None:
    server_program = str(build_c(SERVICES / "server_io_uring.c"))
    server = told.serve(lambda port: [server_program, str(port)])
    assert_seen_or_named(told, server, "calls of io_uring_enter", f"io_uring is set up in process {server.pid}:")


def test_a_32_bit_program_is_seen_or_named_by_its_process_and_its_calls(told: Told) -> None:
    server_program = str(build_c(SERVICES / "server_32_bit.c", "-m32", "-nostdlib", "-static"))
    server = told.serve(lambda port: [server_program, str(port)])
    assert_seen_or_named(told, server, "32-bit system calls", f"32-bit code runs in process {server.pid}:")


def test_a_request_older_than_the_agent_is_named_as_such(prefix: str, told: Told) -> None:
    """Its last byte comes when the agent is there: then it is answered."""
    server = told.stage.server("node")
    target = make_call(f"{prefix}old", "POST", 200, 10, sent=5).target
    with socket.create_connection((server.host, server.port), timeout=60) as client:
        client.sendall(f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nxxxx".encode())
        told.watch(server)
        client.sendall(b"x")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")

        told.wait_for(server, "1 older than the agent")
        numbers = numbers_of(ask_status(told.status_socket).stdout, server.pid)
        assert (1, 0) == (numbers["began"], numbers["spans"])
