"""The ring as user space reads it, against the kernel that writes it."""

import pytest

from otel_ebpf.exchanges.exchange import Role
from tests.kernel.test_exchanges_on_the_wire import OK
from tests.kernel.wire import RING_PAGES, Watched, Wire

pytestmark = pytest.mark.kernel


def test_no_sample_is_lost_or_torn_when_the_ring_wraps_many_times(wire: Wire, watched: Watched):
    """Heads of many lengths put samples across the end of the ring."""
    padding = b"p" * 3000
    sent = []
    for number in range(2 * RING_PAGES * 4096 // 3000):
        wire.c(b"GET /%d HTTP/1.1\r\nX: %b\r\n\r\n" % (number, padding[: number % 2999]))
        wire.s(OK)
        sent.append(b"/%d" % number)
        if number % 50 == 0:
            watched.collect()

    assert sent == [found.target for found in watched.exchanges(Role.SERVER)]
    assert sent == [found.target for found in watched.exchanges(Role.CLIENT)]
