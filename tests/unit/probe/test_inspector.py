"""The child that looks into files: what it answers, and what it cannot do to the agent."""

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_ebpf.probe import inspector
from otel_ebpf.probe.inspector import Finding, Inspector
from otel_ebpf.probe.tls_functions import TlsLibrary
from tests.unit.probe.tls_libraries import content, endless_library, system_library


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert before == os.listdir("/proc/self/fd")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def findings(*paths: Path) -> list[Finding]:
    asked = Inspector()
    with ExitStack() as ends:
        asked.start([ends.enter_context(path.open("rb")).fileno() for path in paths])
    assert select.select([asked.fileno()], [], [], 30)[0]
    return asked.finish()


def written(folder: Path, content: bytes) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.so"
    path.write_bytes(content)
    return path


def test_each_file_has_its_own_finding_in_order(tmp_path: Path) -> None:
    """A library, a program without TLS, an empty file, half a library, a folder."""
    paths = [
        system_library(),
        Path("/bin/true"),
        written(tmp_path, b""),
        written(tmp_path, content()[: len(content()) // 2]),
        system_library(),
    ]

    found = findings(*paths)

    assert [TlsLibrary, None, None, str, TlsLibrary] == [found_one and type(found_one) for found_one in found]
    assert found[0] == found[4]


def test_what_the_parent_gets_is_what_was_found() -> None:
    from otel_ebpf.probe.tls_library import inspect

    with system_library().open("rb") as file:
        wanted = inspect(file)

    assert [wanted] == findings(system_library())


def test_a_file_that_takes_for_ever_spoils_none_but_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its headers claim more sections than can be gone through; those behind it are asked for again."""
    monkeypatch.setattr(inspector, "_MAX_SECONDS", 1)

    found = findings(system_library(), endless_library(tmp_path), system_library())

    assert [TlsLibrary, str] == [type(found_one) for found_one in found]


def test_a_file_that_wants_much_memory_gets_none(tmp_path: Path) -> None:
    """A table of symbols of 8 GB, all of it a hole."""
    huge = bytearray(content())
    sections_at, size = int.from_bytes(huge[0x28:0x30], "little"), int.from_bytes(huge[0x3A:0x3C], "little")
    for section in range(int.from_bytes(huge[0x3C:0x3E], "little")):
        at = sections_at + section * size
        if int.from_bytes(huge[at + 4 : at + 8], "little") in (3, 11):  # SHT_STRTAB, SHT_DYNSYM
            huge[at + 32 : at + 40] = (8 << 30).to_bytes(8, "little")
    path = written(tmp_path, bytes(huge))
    os.truncate(path, 9 << 30)

    (found,) = findings(path)

    assert isinstance(found, str)


def test_an_inspector_that_is_closed_at_work_leaves_nothing(tmp_path: Path) -> None:
    """What is left of it the fixture sees."""
    asked = Inspector()
    with system_library().open("rb") as file:
        asked.start([file.fileno()] * 8)

    asked.close()

    assert not asked.is_busy
    assert asked.fileno() == -1
