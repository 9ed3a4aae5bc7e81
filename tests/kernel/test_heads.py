"""Where heads end is seen in the kernel: long ones are read whole, and no body is copied that nobody will read."""

import os
import socket
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Unknown
from otel_ebpf.records.kinds import Kind
from tests.kernel.test_exchanges_on_the_wire import BOTH, COMPLETE, GET, OK, PLAIN, post, summary
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel

TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def long_request(head_bytes: int, body: bytes = b"") -> bytes:
    """A head of about so many bytes; its traceparent stands at the end."""
    lines = [b"POST /a HTTP/1.1" if body else b"GET /a HTTP/1.1", b"Host: wire"]
    while sum(map(len, lines)) + 2 * len(lines) < head_bytes - 200:
        lines.append(b"X-%d: %b" % (len(lines), b"p" * min(1000, head_bytes // 8)))
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    lines.append(b"traceparent: " + TRACEPARENT)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize("head_bytes", [7_000, 8_190, 8_300, 16_400, 30_000, 64_000])
@pytest.mark.parametrize("pieces", [1, 2, 3, 9])
def test_a_traceparent_anywhere_in_a_head_of_64_kilobytes_is_read(
    head_bytes: int, pieces: int, wire: Wire, watched: Watched
):
    wire.c(long_request(head_bytes), pieces=pieces)
    wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert PLAIN == summary(found)
        assert (TRACEPARENT, Unknown.NOTHING) == (found.traceparent, found.unknown)


@pytest.mark.parametrize("head_bytes", [300, 8_300, 40_000])
def test_a_body_may_follow_its_head_in_the_same_call(head_bytes: int, wire: Wire, watched: Watched):
    wire.c(long_request(head_bytes, body=b"z" * 30_000))
    wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert (b"POST", b"/a", 200, 30_000, 5, COMPLETE) == summary(found)
        assert TRACEPARENT == found.traceparent


def test_a_longer_head_is_reported_as_far_as_it_was_read_and_marked(wire: Wire, watched: Watched):
    wire.c(long_request(90_000))
    wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert (b"GET", b"/a", 200, None, 5, COMPLETE) == summary(found)
        assert found.unknown & Unknown.REQUEST_HEAD_CUT
        assert found.traceparent is None


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("head_bytes", [2_100, 8_300, 40_000])
def test_a_long_response_head_is_read_to_its_length(head_bytes: int, pieces: int, wire: Wire, watched: Watched):
    """The Content-Length at its end is what the response's end rests on."""
    wire.c(GET)
    head = b"HTTP/1.1 200 OK\r\nX-Pad: " + b"p" * head_bytes + b"\r\nContent-Length: 5\r\n\r\n"
    wire.s(head + b"hello", pieces=pieces)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert PLAIN == summary(found)
        assert (Unknown.NOTHING, len(head) + 5) == (found.unknown, found.response_bytes)


def test_a_head_in_many_small_pieces_of_one_call_is_read_whole(watched: Watched, tmp_path: Path):
    wire = Wire(socket.AF_INET, tmp_path)
    head = long_request(30_000)
    pieces = [head[start : start + 1000] for start in range(0, len(head), 1000)]
    left = os.writev(wire.client.fileno(), pieces)
    assert len(head) == left
    while left:
        left -= len(wire.server.recv(left))
    wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert (PLAIN, TRACEPARENT) == (summary(found), found.traceparent)
    wire.close()


@pytest.mark.parametrize("count", [20, 300])
def test_more_pipelined_requests_than_one_record_holds_are_all_seen(count: int, wire: Wire, watched: Watched):
    wire.c(b"".join(b"GET /%d HTTP/1.1\r\nHost: wire\r\n\r\n" % number for number in range(count)))
    wire.s(OK * count)
    watched.until(lambda done: len(done) == 2 * count)

    for role in BOTH:
        assert [b"/%d" % number for number in range(count)] == [found.target for found in watched.exchanges(role)]


@pytest.mark.parametrize("pieces", [1, 2, 7, 40])
def test_a_request_pipelined_behind_a_body_is_seen_wherever_the_calls_cut(pieces: int, wire: Wire, watched: Watched):
    wire.c(post(b"/0", b"A" * 50) + post(b"/1", b"b" * 50) + GET, pieces=pieces)
    wire.s(OK * 3, pieces=pieces)
    watched.until(lambda done: len(done) == 6)

    expected = [(b"POST", b"/0", 200, 50, 5, COMPLETE), (b"POST", b"/1", 200, 50, 5, COMPLETE), PLAIN]
    for role in BOTH:
        assert expected == [summary(found) for found in watched.exchanges(role)]


def test_a_request_behind_a_large_body_in_the_bodys_last_call_is_seen(wire: Wire, watched: Watched):
    request = post(b"/0", b"b" * 100_000)
    wire.c(request[:-50_000])
    wire.c(request[-50_000:] + GET)
    wire.s(OK + OK)
    watched.until(lambda done: len(done) == 4)

    for role in BOTH:
        expected = [(b"POST", b"/0", 200, 100_000, 5, COMPLETE), PLAIN]
        assert expected == [summary(found) for found in watched.exchanges(role)]


@pytest.mark.parametrize("body", [b"z", b"------WebKitFormBoundary\r\n", b'{"a": 1}\r\n\r\n'])
def test_of_an_upload_little_more_than_its_head_is_copied(body: bytes, wire: Wire, watched: Watched):
    """A megabyte, its first bytes in the call of the head and the rest in 16 of their own."""
    request = post(b"/a", (body * 1_000_000)[:1_000_000])
    wire.c(request[:2000])
    wire.c(request[2000:], pieces=16)
    wire.s(OK)

    watched.expect((b"POST", b"/a", 200, 1_000_000, 5, COMPLETE))
    for role in BOTH:
        requests = [x for x in watched.records if x.role == role and x.kind in (Kind.REQUEST, Kind.REQUEST_MORE)]
        assert sum(record.captured_bytes for record in requests) <= 8192
