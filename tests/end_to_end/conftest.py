"""Fixtures of the end-to-end tests."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.sink import http_sink
from tests.end_to_end.stage import Stage
from tests.services.bytecode import bytecode_folder


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    assert os.geteuid() == 0, "end-to-end tests load BPF programs: run them as root"


@pytest.fixture(scope="session")
def bytecode_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the whole run: a start compiles once, tests of the cache itself use another."""
    return bytecode_folder(tmp_path_factory)


@pytest.fixture
def stage(tmp_path: Path, bytecode_cache: Path) -> Iterator[Stage]:
    with ExitStack() as ends:
        yield Stage(tmp_path, bytecode_cache, ends.enter_context(http_sink()), ends)


@pytest.fixture
def status_socket() -> Iterator[str]:
    """pytest's own folders are too long for the address of a socket."""
    with tempfile.TemporaryDirectory(prefix="otel-ebpf-") as folder:
        yield f"{folder}/status.sock"
