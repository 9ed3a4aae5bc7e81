"""A process that is to be watched no more ends what it has begun, and begins nothing that is seen."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.probe.leaving import LeavingProcesses
from otel_ebpf.probe.maps import PID
from tests.kernel.test_exchanges_on_the_wire import GET, OK, PLAIN
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel
FAMILIES = {"ipv4": socket.AF_INET, "unix": socket.AF_UNIX}


@pytest.fixture
def leaving(watched: Watched) -> Iterator[LeavingProcesses]:
    yield LeavingProcesses(watched.maps["targets"], watched.maps["connections"])
    watched.watch(os.getpid())


def is_in_map(watched: Watched) -> bool:
    return watched.maps["targets"].lookup(PID.pack(os.getpid())) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_has_begun_is_seen_to_its_end_and_nothing_else(
    family: str, watched: Watched, leaving: LeavingProcesses, tmp_path: Path
):
    wire = Wire(FAMILIES[family], tmp_path)
    wire.c(GET[:10])
    leaving.leave(os.getpid())
    wire.c(GET[10:])
    wire.s(OK[:20])
    wire.s(OK[20:])
    wire.c(GET)
    wire.s(OK)
    (tmp_path / "later").mkdir()
    later = Wire(FAMILIES[family], tmp_path / "later")
    later.c(GET)
    later.s(OK)
    leaving.sweep()
    is_kept = is_in_map(watched)
    later.close()
    wire.close()
    leaving.sweep()

    assert (True, False) == (is_kept, is_in_map(watched))
    watched.expect(PLAIN)


def test_what_leaves_and_comes_back_is_watched_again(watched: Watched, leaving: LeavingProcesses, tmp_path: Path):
    leaving.leave(os.getpid())
    watched.watch(os.getpid())
    leaving.sweep()

    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET)
    wire.s(OK)
    wire.close()

    watched.expect(PLAIN)


def test_a_child_of_what_leaves_is_none_of_those_that_are_watched(watched: Watched, leaving: LeavingProcesses):
    leaving.leave(os.getpid())
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(reader, 1)
        os._exit(0)
    entry = watched.maps["targets"].lookup(PID.pack(pid))
    os.write(writer, b"x")
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)

    assert entry is None
