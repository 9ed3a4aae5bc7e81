"""What happens to TLS connections besides one request after the other: each exchange is right, or counted as unseen."""

import os
import socket
import ssl
from collections import Counter as Tally
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from OpenSSL import SSL

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from otel_ebpf.records.kinds import Counter
from tests.kernel.tls_wire import (
    HEAD,
    OK,
    Memory,
    TlsWatched,
    connect,
    exchange_of,
    make_contexts,
    pair,
    ports,
    socket_pair,
)
from tests.services.processes import wait_until

pytestmark = pytest.mark.kernel

MEGABYTE = 1 << 20
BOTH_ROLES = (Role.CLIENT, Role.SERVER)
versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


def of_role(done: list[Exchange], role: Role) -> list[Exchange]:
    return [exchange for exchange in done if exchange.role is role]


@versions
def test_resumed_sessions(tls_watched: TlsWatched, certificate: tuple[Path, Path], version: ssl.TLSVersion) -> None:
    """A ticket of an earlier connection takes the place of the certificate; each hello has a random of its own."""
    contexts = make_contexts(certificate, version)
    ends = [connect(contexts)]
    exchange_of(*ends[0], 0)
    for number in range(1, 6):
        ends.append(connect(contexts, ends[0][0].session))
        exchange_of(*ends[number], number)

    done = tls_watched.until(lambda done: len(done) >= 12)

    assert [False, *[True] * 5] == [client.is_resumed for client, _ in ends]
    for role, place in ((Role.CLIENT, 0), (Role.SERVER, 1)):
        wanted = [(b"/tls/%d" % number, own_ports(both[place])) for number, both in enumerate(ends)]
        assert wanted == [(exchange.target, ports(exchange)) for exchange in of_role(done, role)]
    close(*(end for both in ends for end in both))


def own_ports(end: Memory) -> tuple[int, int]:
    return end.sock.getsockname()[1], end.sock.getpeername()[1]


def close(*ends: Memory) -> None:
    for end in ends:
        end.sock.close()


@versions
def test_pipelined_requests(tls_watched: TlsWatched, certificate: tuple[Path, Path], version: ssl.TLSVersion) -> None:
    """Three heads in one record, their answers in three."""
    client, server = pair(certificate, version)
    heads = b"".join(HEAD % number for number in range(3))
    client.send(heads)
    assert heads == server.receive(len(heads))
    for size in (3, 0, 9):
        server.send(OK % size + b"x" * size)
    client.receive(len(OK % 3) * 3 + 12)

    done = tls_watched.until(lambda done: len(done) >= 6)

    for role in BOTH_ROLES:
        mine = [(one.target, one.status, one.response_body_bytes) for one in of_role(done, role)]
        assert [(b"/tls/0", 200, 3), (b"/tls/1", 200, 0), (b"/tls/2", 200, 9)] == mine
    close(client, server)


@versions
def test_a_megabyte_either_way(
    tls_watched: TlsWatched, certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    """Each record of TLS holds 16 KB at most; all of it is one exchange."""
    client, server = pair(certificate, version)
    head = b"POST /large HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % MEGABYTE
    for sender, receiver, data in ((client, server, head), (server, client, OK % MEGABYTE)):
        sender.send(data)
        receiver.receive(len(data))
        for _ in range(16):
            sender.send(b"y" * (MEGABYTE // 16))
            receiver.receive(MEGABYTE // 16)

    done = tls_watched.until(lambda done: len(done) >= 2)

    wanted = (b"POST", b"/large", 200, MEGABYTE, MEGABYTE, Outcome.COMPLETE)
    found = {
        one.role: (one.method, one.target, one.status, one.request_body_bytes, one.response_body_bytes, one.outcome)
        for one in done
    }
    assert dict.fromkeys(BOTH_ROLES, wanted) == found
    close(client, server)


def test_whose_hello_it_was_is_forgotten_with_its_connection(
    tls_watched: TlsWatched, certificate: tuple[Path, Path]
) -> None:
    """However many come and go, there is room for the next one. Either end has an entry of its own."""
    hellos = tls_watched.maps["tls_sockets"]
    before = set(hellos.keys())
    client, server = pair(certificate)
    exchange_of(client, server, 0)
    both = set(hellos.keys()) - before
    close(client, server)

    assert 2 == len(both)
    wait_until(lambda: not both & set(hellos.keys()), "both are forgotten")


def test_memory_of_a_connection_older_than_the_agent_is_told_by_its_ciphertext(
    tls_watched: TlsWatched, certificate: tuple[Path, Path]
) -> None:
    """Neither its hello was seen nor does its object name a socket; what a socket took and what the object was given
    are the same bytes. So an end is known from the first that it reads; what a client wrote before that is counted."""
    tls_watched.unwatch(os.getpid())
    older = [pair(certificate) for _ in range(20)]
    tls_watched.watch(os.getpid())
    unproven = tls_watched.counter(Counter.TLS_UNPROVEN)
    for number in range(3):
        for client, _ in older:
            client.send(HEAD % number)
        for _, server in reversed(older):
            server.receive(len(HEAD % number))
            server.send(OK % 2 + b"ok")
        for client, _ in older:
            client.receive(len(OK % 2) + 2)

    done = tls_watched.until(lambda done: len(done) >= 100)

    wanted = Tally((own_ports(server), b"/tls/%d" % number) for _, server in older for number in range(3))
    wanted += Tally((own_ports(client), b"/tls/%d" % number) for client, _ in older for number in (1, 2))
    assert wanted == Tally((ports(one), one.target) for one in done)
    assert {(200, Outcome.COMPLETE, b"https")} == {(one.status, one.outcome, one.scheme) for one in done}
    assert unproven + 20 == tls_watched.counter(Counter.TLS_UNPROVEN)
    for ends in older:
        close(*ends)


def test_http2_is_counted_and_left_alone(tls_watched: TlsWatched, certificate: tuple[Path, Path]) -> None:
    """By its preface, RFC 9113 section 3.4, which follows where ALPN has chosen `h2`."""
    contexts = make_contexts(certificate)
    for context in contexts:
        context.set_alpn_protocols(["h2"])
    client, server = connect(contexts)
    before = tls_watched.counter(Counter.HTTP2)
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    client.send(preface + settings)
    server.receive(len(preface + settings))
    server.send(settings)
    client.receive(len(settings))
    after = pair(certificate)
    exchange_of(*after, 1)

    done = tls_watched.until(lambda done: len(done) >= 2)

    assert before + 2 == tls_watched.counter(Counter.HTTP2)
    assert [b"/tls/1"] * 2 == [one.target for one in done]
    close(client, server, *after)


class WheelEnd:
    """One end by pyOpenSSL, whose library is inside a wheel: on a socket that it reads itself, or on memory."""

    def __init__(self, sock: socket.socket, certificate: tuple[Path, Path], is_server: bool, has_socket: bool) -> None:
        sock.setblocking(False)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)  # 1.3 knows no renegotiation
        if is_server:
            context.use_certificate_file(str(certificate[0]))
            context.use_privatekey_file(str(certificate[1]))
        self.sock = sock
        self._has_socket = has_socket
        self.connection = SSL.Connection(context, sock if has_socket else None)
        (self.connection.set_accept_state if is_server else self.connection.set_connect_state)()

    @property
    def is_ready(self) -> bool:
        return b"finished successfully" in self.connection.get_state_string()

    def attempt(self, do: Callable[[], object]) -> object:
        """None while it waits for the other end."""
        try:
            return do()
        except SSL.WantReadError:
            return None
        finally:
            if not self._has_socket:
                self._move()

    def _move(self) -> None:
        with suppress(SSL.WantReadError):
            while True:
                self.sock.sendall(self.connection.bio_read(65536))
        with suppress(BlockingIOError):
            while data := self.sock.recv(65536):
                self.connection.bio_write(data)

    def send(self, data: bytes) -> None:
        assert len(data) == self.attempt(lambda: self.connection.send(data))

    def receive(self, size: int) -> None:
        while size:
            got = self.attempt(partial(self.connection.recv, size))
            size -= len(got) if isinstance(got, bytes) else 0


WheelPair = tuple[WheelEnd, WheelEnd]


def wheel_pair(certificate: tuple[Path, Path], has_socket: bool) -> WheelPair:
    sockets = socket_pair()
    client, server = (WheelEnd(sock, certificate, bool(place), has_socket) for place, sock in enumerate(sockets))
    while not (client.is_ready and server.is_ready):
        for end in (client, server):
            end.attempt(end.connection.do_handshake)
    return client, server


def request(ends: WheelPair, number: int) -> None:
    ends[0].send(HEAD % number)
    ends[1].receive(len(HEAD % number))


def response(ends: WheelPair) -> None:
    ends[1].send(OK % 2 + b"ok")
    ends[0].receive(len(OK % 2) + 2)


def renegotiate(ends: WheelPair) -> None:
    """The server asks for it. The new hello is encrypted: its random is never seen."""
    client, server = ends
    before = client.connection.client_random()
    assert server.connection.renegotiate()
    server.attempt(server.connection.do_handshake)
    while before in (client.connection.client_random(), server.connection.client_random()) or not (
        client.is_ready and server.is_ready
    ):
        for end in ends:
            end.attempt(partial(end.connection.recv, 1))


def test_renegotiation_on_a_socket_that_the_library_reads(
    tls_watched: TlsWatched, certificate: tuple[Path, Path]
) -> None:
    """The object itself names its socket."""
    ends = wheel_pair(certificate, has_socket=True)
    for number in range(2):
        request(ends, number)
        response(ends)
    renegotiate(ends)
    for number in range(2, 4):
        request(ends, number)
        response(ends)

    done = tls_watched.until(lambda done: len(done) >= 8)

    for role, end in zip(BOTH_ROLES, ends, strict=True):
        mine = (end.sock.getsockname()[1], end.sock.getpeername()[1])
        assert [(b"/tls/%d" % number, mine, 200) for number in range(4)] == [
            (one.target, ports(one), one.status) for one in of_role(done, role)
        ]
    close_wheels(ends)


def test_renegotiation_in_memory_is_counted_and_invents_nothing(
    tls_watched: TlsWatched, certificate: tuple[Path, Path]
) -> None:
    """Behind it nothing proves whose the bytes are: what was in hand is left open, not called broken off."""
    ends = wheel_pair(certificate, has_socket=False)
    unproven = tls_watched.counter(Counter.TLS_UNPROVEN)
    request(ends, 0)
    response(ends)
    request(ends, 1)
    renegotiate(ends)
    response(ends)
    request(ends, 2)
    response(ends)
    close_wheels(ends)
    sentinel = pair(certificate)
    exchange_of(*sentinel, 9)

    done = tls_watched.until(lambda done: len(done) >= 6)

    for role in BOTH_ROLES:
        assert [
            (b"/tls/0", 200, Outcome.COMPLETE),
            (b"/tls/1", None, Outcome.UNKNOWN),
            (b"/tls/9", 200, Outcome.COMPLETE),
        ] == [(one.target, one.status, one.outcome) for one in of_role(done, role)]
    assert tls_watched.counter(Counter.TLS_UNPROVEN) > unproven
    close(*sentinel)


def close_wheels(ends: WheelPair) -> None:
    for end in ends:
        end.sock.close()
