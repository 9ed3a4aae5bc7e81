"""Which local ends belong to this process."""

import os
import socket

import pytest

from otel_ebpf.export import own_connections
from otel_ebpf.export.own_connections import OwnConnections, SocketScan, connected_ends, endpoints_of

V4 = socket.inet_aton("127.0.0.1")
PADDED, MAPPED = V4.ljust(16, b"\0"), bytes(10) + b"\xff\xff" + V4


def test_ipv4_end_has_two_forms():
    """A dual-stack server sees ::ffff:a.b.c.d."""
    assert {(PADDED, 80), (MAPPED, 80)} == set(endpoints_of(("127.0.0.1", 80)))
    assert {(PADDED, 80), (MAPPED, 80)} == set(endpoints_of(("::ffff:127.0.0.1", 80)))


def test_ipv6_end_is_its_address():
    assert ((bytes(15) + b"\x01", 80),) == endpoints_of(("::1", 80))
    assert endpoints_of(("fe80::1%lo", 80)) == endpoints_of(("fe80::1", 80))


def test_scan_finds_connected_sockets_of_this_process_alone():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as own:
        scan = SocketScan()
        expected = (PADDED, own.getsockname()[1])
        listening = (PADDED, listener.getsockname()[1])
        assert expected in scan.endpoints()
        assert expected in scan.endpoints()  # from what it remembers
        assert listening not in scan.endpoints()
    assert expected not in scan.endpoints()


def test_descriptors_of_other_kinds_have_no_end():
    left, right = socket.socketpair()
    read, write = os.pipe()
    try:
        assert [(), (), ()] == [connected_ends(fd) for fd in (left.fileno(), read, write)]
    finally:
        left.close()
        right.close()
        os.close(read)
        os.close(write)


def test_closed_connection_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch):
    """Its exchange is reported up to a second later; then its port may be somebody else's."""
    now = [100.0]
    monkeypatch.setattr(own_connections, "monotonic", lambda: now[0])
    own = OwnConnections()
    own.note(((PADDED, 1),))
    now[0] += own_connections.KEEP_SECONDS - 1
    own.note(((PADDED, 2),))
    assert {(PADDED, 1), (PADDED, 2)} == own.endpoints()
    now[0] += 2
    assert {(PADDED, 2)} == own.endpoints()
