"""The two ends of a connection find each other by what the kernel says of them, and nobody else does."""

import os
import socket
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.records.kinds import Kind, LinkEvidence, Record
from tests.kernel.cut_wire import CutWire, Namespace
from tests.kernel.wire import Watched, Wire

REQUEST, ANSWER = b"GET /%d HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def ask(wire: Wire, number: int) -> None:
    wire.c(REQUEST % number)
    wire.s(ANSWER)


def assert_linked(watched: Watched, count: int) -> None:
    """Each server's exchange to the client's with the same target."""
    done = watched.until(lambda done: len(done) >= 2 * count)
    clients = {exchange.target: exchange for exchange in done if exchange.role is Role.CLIENT}
    servers = [exchange for exchange in done if exchange.role is Role.SERVER]
    assert count == len(servers)
    assert [parent_numbers(clients[server.target]) for server in servers] == [linked(server) for server in servers]
    assert {LinkEvidence.CONNECTION} == {server.link.evidence for server in servers if server.link is not None}


def parent_numbers(client: Exchange) -> tuple[int, int]:
    return client.connection, client.position


def linked(server: Exchange) -> tuple[int, int] | None:
    return None if server.link is None else (server.link.parent.connection, server.link.parent.number)


def beginnings(watched: Watched) -> dict[Role, list[Record]]:
    found: dict[Role, list[Record]] = {Role.SERVER: [], Role.CLIENT: []}
    for record in watched.records:
        if record.kind == Kind.REQUEST:
            found[Role(record.role)].append(record)
    return found


def test_each_request_of_a_connection_is_linked_to_its_own(watched: Watched, wire: Wire) -> None:
    for number in range(5):
        ask(wire, number)

    assert_linked(watched, 5)


def test_both_ends_of_tcp_number_a_request_alike_and_say_where_they_are(watched: Watched, tmp_path: Path) -> None:
    wire = Wire(socket.AF_INET, tmp_path)
    for number in range(3):
        ask(wire, number)
    wire.close()

    watched.until(lambda done: len(done) >= 6)
    servers, clients = beginnings(watched)[Role.SERVER], beginnings(watched)[Role.CLIENT]
    sequences = [record.sequence for record in clients]
    assert [record.sequence for record in servers] == sequences
    assert [len(REQUEST % 1)] * 2 == [(after - before) % 2**32 for before, after in pairwise(sequences)]
    own = int(Path("/proc/self/ns/net").readlink().name.strip("net:[]"))
    assert {own} == {record.network_namespace for record in (*servers, *clients)}
    others = [record for record in watched.records if record.kind != Kind.REQUEST]
    assert {(0, 0, 0, 0, 0)} == {record[24:29] for record in others}


def test_a_connection_that_is_older_than_the_agent_is_linked_all_the_same(watched: Watched, tmp_path: Path) -> None:
    """Neither end has seen where it began; TCP's numbers do not need that."""
    watched.unwatch(os.getpid())
    try:
        wire = Wire(socket.AF_INET, tmp_path)
        ask(wire, 0)
    finally:
        watched.watch(os.getpid())
    watched.fresh()
    for number in range(1, 4):
        ask(wire, number)
    wire.close()

    assert_linked(watched, 3)


def test_an_ipv4_client_of_an_ipv6_socket_is_linked(watched: Watched) -> None:
    """The server's addresses are ::ffff:127.0.0.1, the client's 127.0.0.1."""
    wire = Wire.__new__(Wire)
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        wire.client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        wire.server, _ = listener.accept()
    ask(wire, 1)
    wire.close()

    assert_linked(watched, 1)


def test_the_same_ports_used_again_are_another_connection(watched: Watched) -> None:
    """Reset, so that the same pair of ports is free at once; each connection asks for things of its own."""
    with ExitStack() as ends:
        listener = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = 0
        for number in range(10):
            wire = Wire.__new__(Wire)
            wire.client = socket.socket()
            wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wire.client.bind(("127.0.0.1", port))
            wire.client.connect(listener.getsockname())
            port = wire.client.getsockname()[1]
            wire.server, _ = listener.accept()
            ask(wire, number)
            wire.reset(wire.client)
            wire.server.close()

    assert_linked(watched, 10)
    assert 1 == len({record.remote_port for record in beginnings(watched)[Role.SERVER]})


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_equal_loopback_endpoints_in_two_network_namespaces_are_two_connections(watched: Watched, address: str) -> None:
    """Both servers listen on the same port, both clients call from the same one; requests alternate."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    spaces = [Namespace(address), Namespace(address)]
    wires, ports = [], (25081, 25082)
    for space in spaces:
        space.ip("link", "set", "lo", "up")
        wire = Wire.__new__(Wire)
        with space.inside(), socket.create_server((address, ports[0]), family=family) as listener:
            wire.client = socket.socket(family)
            wire.client.bind((address, ports[1]))
            wire.client.connect((address, ports[0]))
            wire.server, _ = listener.accept()
        wires.append(wire)
    for number in range(6):
        ask(wires[number % 2], number)
    for wire in wires:
        wire.close()

    assert_linked(watched, 6)
    assert 2 == len({record.network_namespace for record in beginnings(watched)[Role.SERVER]})
    assert {(*ports,)} == {(record.local_port, record.remote_port) for record in beginnings(watched)[Role.SERVER]}
    for space in spaces:
        os.close(space.descriptor)


def test_a_client_that_is_not_watched_is_nobodys_parent(watched: Watched, tmp_path: Path) -> None:
    """Its child is a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if not child:
            watched.unwatch(os.getpid())
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(REQUEST % 1)
                client.recv(100)
            os._exit(0)
        server, _ = listener.accept()
        server.recv(100)
        server.sendall(ANSWER)
        os.waitpid(child, 0)
        server.close()

    (only,) = watched.until(lambda done: len(done) >= 1)
    assert Role.SERVER is only.role
    assert only.link is None


def test_two_hosts_worth_of_addresses_in_two_network_namespaces_are_linked(watched: Watched) -> None:
    """As containers on a bridge: each end has its own addresses and its own namespace."""
    wire = CutWire()
    for number in range(3):
        ask(wire, number)
    wire.close()

    assert_linked(watched, 3)
