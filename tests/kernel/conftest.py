import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.probe.loader import Loaded, load
from otel_ebpf.probe.prepare import prepare_programs
from tests.kernel.wire import RING_PAGES, Watched, Wire


@pytest.fixture(scope="session")
def loaded_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    flags = {"CPU_BITS": 4, "RING_PAGES": RING_PAGES, "MAX_CONNECTIONS": 512}
    folder = tmp_path_factory.mktemp("cache")
    folder.chmod(0o700)
    with load(prepare_programs(flags, cache_dir=folder)) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def watched_programs(loaded_programs: Loaded) -> Iterator[Watched]:
    watched = Watched(loaded_programs)
    yield watched
    watched.close()


@pytest.fixture
def watched(watched_programs: Watched) -> Watched:
    watched_programs.fresh()
    return watched_programs


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=["ipv4", "ipv6", "unix"])
def wire(request: pytest.FixtureRequest, watched: Watched, tmp_path: Path) -> Iterator[Wire]:
    made = Wire(request.param, tmp_path)
    yield made
    made.close()
