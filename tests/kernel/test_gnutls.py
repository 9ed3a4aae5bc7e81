"""GnuTLS, in each form of uprobes that this kernel has: its own server and its own client."""

import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from otel_ebpf.records.kinds import Counter
from tests.kernel.tls_wire import HEAD, OK, TlsWatched, of_client, of_server, ports
from tests.services.processes import free_port, running
from tests.services.servers import program

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_server_on_gnutls(
    tls_watched: TlsWatched, certificate: tuple[Path, Path], version: str, tmp_path: Path
) -> None:
    """Its sessions keep the ClientHello's random as OpenSSL's objects do, elsewhere."""
    port = free_port()
    command = [program("gnutls-serv"), "--http", f"--port={port}", f"--x509certfile={certificate[0]}"]
    command += [f"--x509keyfile={certificate[1]}", f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"]
    unproven = tls_watched.counter(Counter.TLS_UNPROVEN)
    answers: list[bytes] = []
    ports_of_clients: list[int] = []
    with running(command, ("127.0.0.1", port), log=tmp_path / "log") as server:
        tls_watched.look(server.pid)
        tls_watched.watch(server.pid)
        for number in range(3):
            context = ssl._create_unverified_context()
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as client:
                ports_of_clients.append(client.getsockname()[1])
                client.sendall(HEAD % number)
                answers.append(b"".join(iter(lambda: client.recv(65536), b"")))
        done = tls_watched.until(lambda done: len(of_server(done)) >= 3)
        tls_watched.unwatch(server.pid)
        tls_watched.tls.forget(server.pid)

    assert [(b"/tls/%d" % number, 200, b"https") for number in range(3)] == [
        (one.target, one.status, one.scheme) for one in of_server(done)
    ]
    assert [len(answer.partition(b"\r\n\r\n")[2]) for answer in answers] == [
        one.response_body_bytes for one in of_server(done)
    ]
    assert [(port, number) for number in ports_of_clients] == [ports(one) for one in of_server(done)]
    assert unproven == tls_watched.counter(Counter.TLS_UNPROVEN)


@pytest.mark.parametrize("is_older", [False, True], ids=["seen from its beginning", "older than the agent"])
def test_a_client_on_gnutls(tls_watched: TlsWatched, certificate: tuple[Path, Path], is_older: bool) -> None:
    """One whose ClientHello was not seen is told by the descriptor that its session reads."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    unproven = tls_watched.counter(Counter.TLS_UNPROVEN)
    if is_older:
        tls_watched.unwatch(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [program("gnutls-cli"), "--insecure", "--no-ca-verification", f"--port={port}", "127.0.0.1"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            accepted, peer = listener.accept()
            tls_watched.look(process.pid)
            with context.wrap_socket(accepted, server_side=True) as served:
                tls_watched.watch(process.pid)
                for number in range(3):
                    process.stdin.write(HEAD % number)
                    process.stdin.flush()
                    served.recv(100)
                    served.sendall(OK % 2 + b"ok")
                done = tls_watched.until(lambda done: len(of_client(done)) >= 3)
            process.stdin.close()
        tls_watched.unwatch(process.pid)
        tls_watched.watch(os.getpid())
        tls_watched.tls.forget(process.pid)

    assert [(b"/tls/%d" % number, 200, 2) for number in range(3)] == [
        (one.target, one.status, one.response_body_bytes) for one in of_client(done)
    ]
    assert {(peer[1], port, b"https")} == {(*ports(one), one.scheme) for one in of_client(done)}
    assert unproven == tls_watched.counter(Counter.TLS_UNPROVEN)
