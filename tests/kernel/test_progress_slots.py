"""The progress table has fewer slots than there will be connections: who has one, and for how long."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from otel_ebpf.records.layouts import PROGRESS_SLOTS
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SLOTS_OF_ONE_CPU = PROGRESS_SLOTS >> 4  # CPU_BITS of the programs under test
CONNECTIONS = SLOTS_OF_ONE_CPU  # of two ends each: every slot comes up twice


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Each CPU numbers connections, and so gives out slots, by itself."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def slots_used(watched: Watched) -> set[int]:
    return {exchange.connection % PROGRESS_SLOTS for exchange in watched.done}


@pytest.mark.usefixtures("one_cpu")
def test_no_other_connection_gets_the_slot_of_one_that_is_open(watched: Watched, tmp_path: Path):
    """Or else what a busy connection writes hides how another one ended, for good where that was lost."""
    with closing(Wire(socket.AF_INET, tmp_path)) as lasting:
        lasting.c(GET)
        lasting.s(OK)
        watched.until(lambda done: len(done) == 2)
        slots = slots_used(watched)
        numbers = [exchange.connection for exchange in watched.done]
        watched.fresh()
        for _ in range(CONNECTIONS):  # each is gone before the next one
            with closing(Wire(socket.AF_INET, tmp_path)) as brief:
                brief.c(GET)
                brief.s(OK)
            watched.collect()

        slots_of_others = slots_used(watched)
        assert 2 * CONNECTIONS == len(watched.done)
        assert (2, set()) == (len(slots), slots & slots_of_others)
        assert all(watched.progress.read(number, 0) for number in numbers)
