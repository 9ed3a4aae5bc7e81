"""The PROXY protocol: what a proxy says of a connection before its first byte is no part of what is sent through it."""

import socket
import struct
from pathlib import Path

import pytest

from tests.kernel.test_exchanges_on_the_wire import GET, OK, PLAIN
from tests.kernel.wire import Watched, Wire
from tests.services.proxy_headers import SIGNATURE, VERSION_1, version_2

pytestmark = pytest.mark.kernel

HEADERS = {
    "1": VERSION_1,
    "1-longest": b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105, b" ") + b"\r\n",
    "1-unknown": b"PROXY UNKNOWN\r\n",
    "2": version_2(),
    "2-local": SIGNATURE + b"\x20\0\0\0",
    "2-like-a-request": version_2(b"GET /invented HTTP/1.1\r\nHost: h\r\n\r\n"),
    "2-long": version_2(b"\x04" + struct.pack(">H", 3000) + b"n" * 3000),
}
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6, "unix": socket.AF_UNIX}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_apart", [True, False], ids=["apart", "with-the-request"])
@pytest.mark.parametrize("kind", HEADERS)
def test_it_is_stepped_over(kind: str, is_apart: bool, family: str, watched: Watched, tmp_path: Path):
    """Both ends number the request by its own first byte, and are so known for one another."""
    wire = Wire(FAMILIES[family], tmp_path)
    if is_apart:
        wire.c(HEADERS[kind])
        wire.c(GET)
    else:
        wire.c(HEADERS[kind] + GET)
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)
    watched.until(lambda done: len(done) == 4)
    wire.close()

    watched.expect(PLAIN, PLAIN)
    numbers = {record.sequence for record in watched.records if record.sequence and record.position == 0}
    assert (0 if family == "unix" else 1) == len(numbers)


@pytest.mark.parametrize("cut", [16, 20, 27])
def test_one_of_the_second_version_may_come_in_pieces(cut: int, watched: Watched, tmp_path: Path):
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(HEADERS["2"][:cut])
    wire.c(HEADERS["2"][cut:] + GET)
    wire.s(OK)
    wire.close()

    watched.expect(PLAIN)


@pytest.mark.parametrize("kind", HEADERS)
def test_it_is_stepped_over_in_buffers_that_are_handed_over_together(kind: str, watched: Watched, tmp_path: Path):
    wire = Wire(socket.AF_INET, tmp_path)
    sent = HEADERS[kind] + GET
    assert len(sent) == wire.client.sendmsg([HEADERS[kind] + GET[:7], GET[7:]])
    first, second = bytearray(len(HEADERS[kind]) + 20), bytearray(1000)
    assert len(sent) == wire.server.recvmsg_into([first, second])[0]
    wire.s(OK)
    wire.close()

    watched.expect(PLAIN)


def test_a_request_whose_method_begins_alike_is_one(watched: Watched, tmp_path: Path):
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET.replace(b"GET", b"PROXY"))
    wire.s(OK)
    wire.close()

    watched.expect((b"PROXY", *PLAIN[1:]))


def test_behind_the_first_request_nothing_is_taken_for_it(watched: Watched, tmp_path: Path):
    """A request's body may hold whatever its sender likes."""
    body = HEADERS["1"] + GET
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(body)))
    wire.c(body)
    wire.s(OK)
    wire.close()

    watched.expect((*PLAIN[:3], len(body), *PLAIN[4:]))
