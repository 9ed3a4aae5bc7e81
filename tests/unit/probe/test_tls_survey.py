"""What `otel-ebpf check` says of the TLS libraries of processes."""

import os
from pathlib import Path

import pytest

from otel_ebpf.probe import inspector
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_survey import survey
from tests.unit.probe.tls_libraries import content, endless_library, system_library


class Mapping(Procfs):
    """One process that has mapped these."""

    def __init__(self, *paths: Path) -> None:
        super().__init__()
        self._paths = paths

    def mapped_files(self, pid: int) -> list[MappedFile]:
        return [MappedFile(path.stat().st_ino, path.stat().st_dev, os.fsencode(path)) for path in self._paths]


def test_the_library_of_this_process_is_read_cheaply() -> None:
    found = {library.path: library for library in survey([os.getpid()], Procfs())}

    library = found[str(system_library())]
    assert library.is_read
    assert library.detail.startswith("probes where the kernel emulates the instruction")


def test_a_library_is_told_once_however_many_have_mapped_it() -> None:
    assert 1 == len(survey([7, 8, 9], Mapping(system_library())))


def test_what_has_no_tls_is_not_told() -> None:
    assert [] == survey([7], Mapping(Path("/bin/true")))


def test_one_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "_MAX_SECONDS", 1)
    half = tmp_path / "half.so"
    half.write_bytes(content()[:100_000])

    found = survey([7], Mapping(half, endless_library(tmp_path), system_library()))

    assert [False, False, True] == [library.is_read for library in found]
    assert all(library.detail.startswith("not read: ") for library in found[:2])
