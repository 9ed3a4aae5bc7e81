"""TLS between two ends in this process, whose library the real programs watch, in one form of uprobes.

In:   a certificate
Out:  ends that do what the test says; what became of it, as wire.py gives it
Owns: nothing that lasts
"""

import select
import socket
import ssl
from pathlib import Path

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import TLS_PROGRAMS
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.tls_watch import TlsWatch
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.probed import Probed

HEAD = b"GET /tls/%d HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


class TlsWatched(Probed):
    """This process with its libssl, in one form."""

    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm) -> None:
        super().__init__(prepared, hooks, form, TLS_PROGRAMS)
        self.tls = self.with_watch(TlsWatch)
        self.look()


class Memory:
    """One end, between a socket and an SSL object with memory BIOs, as asyncio, uvloop and aiohttp have it."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, is_server: bool, session: ssl.SSLSession | None = None
    ) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server, session=session)
        self.is_ready = False

    @property
    def session(self) -> ssl.SSLSession | None:
        return self._object.session

    @property
    def is_resumed(self) -> bool | None:
        return self._object.session_reused

    def step(self) -> None:
        """Of the handshake."""
        try:
            self._object.do_handshake()
            self.is_ready = True
        except ssl.SSLWantReadError:
            pass
        self._flush()
        if not self.is_ready and select.select([self.sock], [], [], 0)[0]:
            self._incoming.write(self.sock.recv(65536))

    def send(self, data: bytes) -> None:
        self._object.write(data)
        self._flush()

    def receive(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            try:
                got += self._object.read(size - len(got))
            except ssl.SSLWantReadError:
                self._incoming.write(self.sock.recv(65536))
        return got

    def _flush(self) -> None:
        while self._outgoing.pending:
            self.sock.sendall(self._outgoing.read(65536))


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def make_contexts(certificate: tuple[Path, Path], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Contexts:
    """Of a client and of a server."""
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(*certificate)
    of_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    of_client.check_hostname, of_client.verify_mode = False, ssl.CERT_NONE
    of_client.maximum_version = version
    return of_client, of_server


def socket_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def connect(contexts: Contexts, session: ssl.SSLSession | None = None) -> tuple[Memory, Memory]:
    """A client and a server on one connection, after the handshake."""
    sockets = socket_pair()
    client, server = Memory(sockets[0], contexts[0], False, session), Memory(sockets[1], contexts[1], True)
    while not (client.is_ready and server.is_ready):
        client.step()
        server.step()
    return client, server


def pair(certificate: tuple[Path, Path], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[Memory, Memory]:
    return connect(make_contexts(certificate, version))


def exchange_of(client: Memory, server: Memory, number: int, size: int = 5) -> None:
    head = HEAD % number
    client.send(head)
    assert head == server.receive(len(head))
    answer = OK % size + b"x" * size
    server.send(answer)
    assert answer == client.receive(len(answer))


def answer_once(sock: socket.socket, context: ssl.SSLContext, head: bytes, answer: bytes) -> None:
    """A server's whole work, for a thread beside a client that waits."""
    server = Memory(sock, context, True)
    while not server.is_ready:
        server.step()
    assert head == server.receive(len(head))
    server.send(answer)


def of_server(done: list[Exchange]) -> list[Exchange]:
    """The client is a child of this process, and so watched as well, from a moment that is not known."""
    return [exchange for exchange in done if exchange.role is Role.SERVER]


def of_client(done: list[Exchange]) -> list[Exchange]:
    return [exchange for exchange in done if exchange.role is Role.CLIENT]


def ports(exchange: Exchange) -> tuple[int, int]:
    return exchange.local_port, exchange.remote_port
