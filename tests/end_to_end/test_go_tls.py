"""Go's own TLS, both ends in Go: several versions and ways to build, and what else goes on in such a process."""

import io
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_ebpf.probe.elf_image import UnreadableTlsError
from otel_ebpf.probe.go_library import inspect
from otel_ebpf.probe.tls_library import NoTlsError
from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import ask_status, lines_of
from tests.end_to_end.truth import CLOCK_TOLERANCE_NS, belongs_to, differences, target_of
from tests.services.plan import Call, all_calls, make_call
from tests.services.processes import wait_until
from tests.services.servers import GO_HTTP, Running
from tools.go_build import PLAIN, Kind, build

OLDEST_PIE = Kind(toolchain="go1.21.13", is_pie=True)
WITH_C = Kind(has_c=True)
KINDS = {"stripped": PLAIN, "go1.21-pie": OLDEST_PIE, "cgo": WITH_C}
MEGABYTE = 1_000_000
ROOMY = "64MiB"  # for all of it, while the exporter waits for a CPU
FIRST_WRITE_BYTES = 4096
LARGE = 20_000_000  # more than a connection's buffers hold


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_request_is_one_right_span_on_both_sides(kind: Kind, prefix: str, stage: Stage) -> None:
    """Stripped, all of them; TLS 1.3 and 1.2; kept connections and one for each call; bodies of a megabyte both ways."""
    server = stage.go_tls_server(kind)
    large = [
        make_call(f"{prefix}sent", "POST", 200, 5, sent=MEGABYTE),
        make_call(f"{prefix}answered", "GET", 200, MEGABYTE),
        make_call(f"{prefix}chunks", "GET", 200, MEGABYTE, framing="chunked"),
    ]
    clients = [
        stage.client("go", server, [*all_calls(f"{prefix}a"), *large], go=kind),
        stage.client("go", server, all_calls(f"{prefix}b"), go=kind, keep_alive=False, tls_version="TLSv1.2"),
    ]
    stage.agent(OTEL_EBPF_TARGET_PID=",".join(str(one.pid) for one in [server, *clients]))

    results = [result for client in clients for result in client.send()]

    spans = stage.sink.wait_for(2 * len(results), belongs_to(prefix))
    assert [] == differences(results, [span for span in spans if span.kind == SERVER], SERVER)
    assert [] == differences(results, [span for span in spans if span.kind == CLIENT], CLIENT)
    assert 2 * len(results) == len(spans)
    assert {(server.host, server.port)} == {
        (span.attributes["network.peer.address"], span.attributes["network.peer.port"])
        for span in spans
        if span.kind == CLIENT
    }


def test_stacks_that_move_while_many_connections_are_busy(prefix: str, stage: Stage) -> None:
    """Collecting all the time, and so shrinking stacks that grow again: no span is wrong, and nobody is killed."""
    often = {"GOGC": "5"}
    server = stage.go_tls_server(PLAIN, **often)
    calls = [call for number in range(20) for call in all_calls(f"{prefix}{number}x") if not call.delay_ms]
    client = stage.client("go", server, calls, workers=16, env=often)
    stage.agent(OTEL_EBPF_TARGET_PID=f"{server.pid},{client.pid}", OTEL_EBPF_RING_BYTES=ROOMY)

    results = client.send()

    spans = stage.sink.wait_for(2 * len(results), belongs_to(prefix))
    assert server.process.poll() is None
    assert [] == differences(results, [span for span in spans if span.kind == SERVER], SERVER)
    assert [] == differences(results, [span for span in spans if span.kind == CLIENT], CLIENT)


def test_a_request_that_comes_while_its_server_is_on_its_way_back_from_the_answer(prefix: str, stage: Stage) -> None:
    """net/http reads the next one in another thread meanwhile. A client that asks again at once, on a CPU of its own: each
    request is one span, with the answer that is its own."""
    server = stage.go_tls_server(PLAIN)
    calls = [call for number in range(40) for call in all_calls(f"{prefix}{number}x") if not call.delay_ms]
    client = stage.client("go", server, calls)
    stage.agent(OTEL_EBPF_TARGET_PID=f"{server.pid},{client.pid}", OTEL_EBPF_RING_BYTES=ROOMY)

    results = client.send()

    spans = stage.sink.wait_for(2 * len(results), belongs_to(prefix))
    assert [] == differences(results, [span for span in spans if span.kind == SERVER], SERVER)
    assert [] == differences(results, [span for span in spans if span.kind == CLIENT], CLIENT)


@contextmanager
def half_read(server: Running, call: Call) -> Iterator[ssl.SSLSocket]:
    """A connection on which a request has been sent, and the beginning of its answer read.

    Of more than net/http's first write of 4096 bytes: the server is within its second, which holds all the rest.
    """
    context = ssl.create_default_context(cafile=str(server.authority))
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        plain.settimeout(60)
        plain.connect((server.host, server.port))
        with context.wrap_socket(plain, server_hostname=server.host) as connection:
            connection.sendall(f"GET {call.target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            head = b""
            while len(head) <= FIRST_WRITE_BYTES:
                head += connection.recv(FIRST_WRITE_BYTES)
            assert head.startswith(b"HTTP/1.1 200")
            yield connection


def test_a_response_in_one_call_ends_when_its_last_byte_has_been_sent(prefix: str, stage: Stage) -> None:
    """More than all buffers hold: it is told as a whole when the server hands it over, long before the end."""
    server = stage.go_tls_server(PLAIN)
    large, small = make_call(f"{prefix}large", "GET", 200, LARGE), make_call(f"{prefix}small", "GET")
    client = stage.client("go", server, [small])
    stage.agent(OTEL_EBPF_TARGET_PID=server.pid)
    with half_read(server, large) as connection:
        client.send()
        stage.sink.wait_for(1, belongs_to(prefix))
        assert [small.target] == [target_of(span) for span in stage.sink.spans if belongs_to(prefix)(span)]
        read_on_unix_ns, read_bytes = time.time_ns(), 2 * FIRST_WRITE_BYTES
        while read_bytes < LARGE:
            read_bytes += len(connection.recv(1 << 20))

        (span,) = stage.sink.wait_for(1, belongs_to(large.id))

    assert (200, LARGE) == (
        span.attributes["http.response.status_code"],
        span.attributes["http.response.body.size"],
    )
    assert read_on_unix_ns - CLOCK_TOLERANCE_NS < span.end_unix_ns


def test_a_request_that_is_read_while_the_response_before_it_is_being_sent(prefix: str, stage: Stage) -> None:
    """The response ends there, as far as anybody can say, and says so; the bytes that are still to leave are not the next one's."""
    server = stage.go_tls_server(PLAIN)
    large, small = make_call(f"{prefix}large", "GET", 200, LARGE), make_call(f"{prefix}small", "GET", 404, 7)
    stage.agent(OTEL_EBPF_TARGET_PID=server.pid, OTEL_EBPF_SPAN_EVIDENCE="true")
    with half_read(server, large) as connection:
        connection.sendall(f"GET {small.target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        stage.sink.wait_for(1, belongs_to(large.id))
        while connection.recv(1 << 20):
            pass

    spans = stage.sink.wait_for(2, belongs_to(prefix))
    assert [(large.target, 200, LARGE, "next_request"), (small.target, 404, 7, None)] == [
        (
            target_of(span),
            span.attributes["http.response.status_code"],
            span.attributes["http.response.body.size"],
            span.attributes.get("otel_ebpf.evidence.response_end"),
        )
        for span in spans
    ]


def test_a_response_in_one_call_that_its_client_does_not_take_is_not_whole(prefix: str, stage: Stage) -> None:
    """The server hands over all of it: that is not taken for what it has sent."""
    server = stage.go_tls_server(PLAIN)
    large = make_call(f"{prefix}large", "GET", 200, LARGE)
    stage.agent(OTEL_EBPF_TARGET_PID=server.pid)

    with half_read(server, large):
        pass

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert (200, "reset") == (span.attributes["http.response.status_code"], span.attributes["error.type"])
    assert span.attributes.get("http.response.body.size", 0) < LARGE


def test_http_2_is_counted_and_left_alone(prefix: str, stage: Stage, status_socket: str) -> None:
    """Go's peers speak it when both may. The server's side of a connection and the client's count one each."""
    server = stage.server("go-tls")
    client = stage.client("go", server, all_calls(prefix)[:5], http2=True)
    stage.agent(OTEL_EBPF_TARGET_PID=f"{server.pid},{client.pid}", OTEL_EBPF_STATUS_SOCKET=status_socket)
    wait_until(lambda: lines_of(ask_status(status_socket).stdout, server.pid), "the status knows the server")

    client.send()

    said = "1 connections speak HTTP/2"
    wait_until(lambda: said in lines_of(ask_status(status_socket).stdout, server.pid), f"the status tells {said!r}")
    assert [] == [span for span in stage.sink.spans if belongs_to(prefix)(span)]


def test_what_is_not_as_the_probes_rely_on_is_refused() -> None:
    """An older Go, and a Read that copies by another function: each says why."""
    program = build(GO_HTTP).read_bytes()
    found = inspect(io.BytesIO(program))
    older = program.replace(f"go{found.version}".encode(), b"go1.20")
    other_call = program[: found.read + 1] + bytes(4) + program[found.read + 5 :]

    for changed, why in ((older, "made by Go 1.20; 1.21 is the first"), (other_call, "its (*Conn).Read is not as Go")):
        with pytest.raises(UnreadableTlsError) as refused:
            inspect(io.BytesIO(changed))
        assert why in str(refused.value)


def test_a_program_with_other_numbers_is_read_or_refused_in_one_line() -> None:
    """Numbers that no linker wrote, in its headers, its tables and the code that is looked at: whose they are is unknown."""
    program = build(GO_HTTP).read_bytes()
    found = inspect(io.BytesIO(program))
    table = program.index(b"\xf1\xff\xff\xff\0\0\x01\x08")
    sections = int.from_bytes(program[40:48], "little")
    build_info = program.index(b"\xff Go buildinf:")
    begins = [0, sections, table, build_info, found.write - 32, found.read - 600]
    chance = random.Random(1)
    for _ in range(300):
        changed = bytearray(program)
        for _ in range(chance.randint(1, 3)):
            at = chance.choice(begins) + chance.randrange(700)
            changed[at : at + 4] = chance.randbytes(4) if chance.randrange(2) else bytes(4)
        try:
            inspect(io.BytesIO(changed[: len(changed) - chance.randrange(0, 9) * len(changed) // 10]))
        except NoTlsError:
            continue
        except UnreadableTlsError as error:
            assert [str(error)] == str(error).splitlines()
