"""TLS between two ends in this process, in each form of uprobes that this kernel has: plain text is seen, and whose."""

import os
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.probe import preflight
from otel_ebpf.probe.uprobes import UprobeForm, available_forms
from otel_ebpf.records.kinds import Counter
from tests.kernel.bio_client import BioClient
from tests.kernel.tls_wire import (
    HEAD,
    OK,
    TlsWatched,
    answer_once,
    exchange_of,
    make_contexts,
    of_server,
    pair,
    ports,
    socket_pair,
)

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_both_ends_of_a_connection(
    tls_watched: TlsWatched, certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    client, server = pair(certificate, version)
    for number, size in enumerate((5, 0, 70_000)):
        exchange_of(client, server, number, size)

    done = tls_watched.until(lambda done: len(done) >= 6)

    for role, end in ((Role.CLIENT, client), (Role.SERVER, server)):
        mine = [exchange for exchange in done if exchange.role is role]
        assert [b"/tls/0", b"/tls/1", b"/tls/2"] == [exchange.target for exchange in mine]
        assert [(200, 5), (200, 0), (200, 70_000)] == [(one.status, one.response_body_bytes) for one in mine]
        assert {(end.sock.getsockname()[1], end.sock.getpeername()[1])} == {ports(exchange) for exchange in mine}
        assert {(b"https", Outcome.COMPLETE)} == {(exchange.scheme, exchange.outcome) for exchange in mine}
    client.sock.close()
    server.sock.close()


def test_what_goes_through_a_bio_of_the_library(tls_watched: TlsWatched, certificate: tuple[Path, Path]) -> None:
    """As in programs that stack BIOs: the library's own one (BIO_f_ssl) does without SSL_read and SSL_write."""
    contexts, sockets = make_contexts(certificate), socket_pair()
    for sock in sockets:
        sock.settimeout(60)
    with BioClient(sockets[0]) as client, ThreadPoolExecutor() as pool:
        serving = pool.submit(answer_once, sockets[1], contexts[1], HEAD % 7, OK % 3 + b"bio")
        client.send(HEAD % 7)
        answer = client.receive(len(OK % 3) + 3)
        serving.result(60)

    assert OK % 3 + b"bio" == answer
    done = tls_watched.until(lambda done: len(done) >= 2)
    assert {(Role.CLIENT, b"/tls/7", 200, 3), (Role.SERVER, b"/tls/7", 200, 3)} == {
        (one.role, one.target, one.status, one.response_body_bytes) for one in done
    }
    for sock in sockets:
        sock.close()


def test_each_of_many_connections_of_one_thread_has_its_own_peer(
    tls_watched: TlsWatched, certificate: tuple[Path, Path]
) -> None:
    """All requests are written before the first is read: no order of calls tells which socket is meant."""
    pairs = [pair(certificate) for _ in range(40)]
    unproven = tls_watched.counter(Counter.TLS_UNPROVEN)
    for number, (client, _) in enumerate(pairs):
        client.send(HEAD % number)
    for number, (_, server) in reversed(list(enumerate(pairs))):
        server.receive(len(HEAD % number))
        server.send(OK % 3 + b"abc")
    for client, _ in pairs:
        client.receive(len(OK % 3) + 3)

    done = tls_watched.until(lambda done: len(done) >= 80)

    wanted = {b"/tls/%d" % number: ends[0].sock.getsockname()[1] for number, ends in enumerate(pairs)}
    assert wanted == {one.target: one.local_port for one in done if one.role is Role.CLIENT}
    assert wanted == {one.target: one.remote_port for one in done if one.role is Role.SERVER}
    assert unproven == tls_watched.counter(Counter.TLS_UNPROVEN)
    for client, server in pairs:
        client.sock.close()
        server.sock.close()


def test_sockets_that_the_library_reads_itself(tls_watched: TlsWatched, certificate: tuple[Path, Path]) -> None:
    """OpenSSL then reads the header of the first record by itself, so the ClientHello comes in two calls."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = (
            "import socket, ssl, sys\n"
            "context = ssl._create_unverified_context()\n"
            "sock = context.wrap_socket(socket.create_connection(('127.0.0.1', int(sys.argv[1]))))\n"
            "for number in range(3):\n"
            "    sock.sendall(b'GET /tls/%d HTTP/1.1\\r\\nHost: shop\\r\\n\\r\\n' % number)\n"
            "    sock.recv(100)\n"
        )
        port = listener.getsockname()[1]
        with subprocess.Popen(["/usr/bin/python3", "-c", script, str(port)]):
            accepted, peer = listener.accept()
            with context.wrap_socket(accepted, server_side=True) as served:
                for _ in range(3):
                    served.recv(100)
                    served.sendall(OK % 2 + b"ok")
                done = tls_watched.until(lambda done: len(of_server(done)) >= 3)

    assert [b"/tls/0", b"/tls/1", b"/tls/2"] == [exchange.target for exchange in of_server(done)]
    assert {(port, peer[1])} == {ports(exchange) for exchange in of_server(done)}


def test_a_connection_that_is_older_than_the_agent(tls_watched: TlsWatched, certificate: tuple[Path, Path]) -> None:
    """Its ClientHello was not seen; the object that reads the socket itself names it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    tls_watched.unwatch(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as other:
        port = listener.getsockname()[1]
        unverified = ssl._create_unverified_context()
        connecting = other.submit(lambda: unverified.wrap_socket(socket.create_connection(("127.0.0.1", port))))
        accepted, peer = listener.accept()
        with context.wrap_socket(accepted, server_side=True) as served, connecting.result() as client:
            tls_watched.watch(os.getpid())
            for number in range(3):
                client.sendall(HEAD % number)
                served.recv(100)
                served.sendall(OK % 2 + b"ok")
                client.recv(100)
            done = tls_watched.until(lambda done: len(of_server(done)) >= 3)

    assert [b"/tls/0", b"/tls/1", b"/tls/2"] == [exchange.target for exchange in of_server(done)]
    assert {(port, peer[1], b"https")} == {(*ports(exchange), exchange.scheme) for exchange in of_server(done)}
    assert b"/tls/2" == next(exchange.target for exchange in reversed(done) if exchange.role is Role.CLIENT)


def test_a_head_in_pieces_and_chunks(tls_watched: TlsWatched, certificate: tuple[Path, Path]) -> None:
    """What goes on in programs of its own for plain text does so here."""
    client, server = pair(certificate)
    head = b"GET /long HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\nHost: shop\r\n\r\n"
    for start in range(0, len(head), 3000):
        client.send(head[start : start + 3000])
    server.receive(len(head))
    answer = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
    ]
    for part in answer:
        server.send(part)
    client.receive(sum(map(len, answer)))

    done = tls_watched.until(lambda done: len(done) >= 2)

    assert {(b"/long", 200, 8, Outcome.COMPLETE)} == {
        (one.target, one.status, one.response_body_bytes, one.outcome) for one in done
    }
    assert {Role.CLIENT, Role.SERVER} == {one.role for one in done}
    client.sock.close()
    server.sock.close()


def test_every_form_of_this_kernel_is_tried() -> None:
    """Linux 6.13 has them all, 6.6 two, 5.15 one; with none, as on 5.10, `otel-ebpf check` names what is missing."""
    running = tuple(int(number) for number in os.uname().release.split(".")[:2])
    count = sum(running >= since for since in ((5, 15), (6, 6), (6, 13)))

    assert list(UprobeForm)[len(UprobeForm) - count :] == list(available_forms())
    finding = preflight.uprobes(preflight.Host())[0]
    assert finding.ok or ("neither TLS" in finding.detail and "Linux 5.15" in finding.remedy)
