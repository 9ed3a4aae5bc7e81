"""Servers that read of the next request before they answer, as Go's net/http does: to the kernel its rest begins an exchange."""

import pytest

from tests.kernel.test_chunked_requests import HEAD, coded, up
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN, post
from tests.kernel.wire import Expected, Watched, Wire

pytestmark = pytest.mark.kernel

LAST = b"GET /last HTTP/1.1\r\n\r\n"
FIRST: dict[str, tuple[bytes, bytes, Expected]] = {
    "GET": (GET, OK, PLAIN),
    "HEAD": (GET.replace(b"GET", b"HEAD"), OK[:-5], (b"HEAD", b"/a", 200, 0, 0, COMPLETE)),
    "a body": (post(b"/p", b"hello"), OK, (b"POST", b"/p", 200, 5, 5, COMPLETE)),
    "chunks": (HEAD + coded(b"x" * 300), OK, up(300)),
}


def read(wire: Wire, count: int) -> None:
    while count:
        count -= len(wire.server.recv(count))


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("answered", [0, 20, -1], ids=["none of the answer", "its beginning", "all but a byte of it"])
@pytest.mark.parametrize("cut", [1, 4, -1, None], ids=["a byte", "GET and a space", "all but a byte", "all"])
def test_every_request_is_one(first: str, answered: int, cut: int | None, wire: Wire, watched: Watched):
    """What is read before, and how much of the answer had been written by then; and all that come later are."""
    request, answer, expected = FIRST[first]
    wire.c(request)
    if answered:
        wire.s(answer[:answered])
    wire.client.sendall(GET)
    begin = GET[:cut]
    read(wire, len(begin))
    wire.s(answer[answered:])
    read(wire, len(GET) - len(begin))
    wire.s(OK)
    wire.c(LAST)
    wire.s(OK)

    watched.expect(expected, PLAIN, (b"GET", b"/last", 200, 0, 5, COMPLETE))
    assert {} == watched.assembler.losses
