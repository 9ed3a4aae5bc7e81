"""The files that a process has mapped to run, and how they are reached; /proc is made of ordinary files."""

import os
from pathlib import Path

import pytest

from otel_ebpf.probe.procfs import MappedFile, Procfs

PID = 7


@pytest.fixture
def process(tmp_path: Path) -> Path:
    """Its folder in /proc; its root is `root`."""
    folder = tmp_path / "proc" / str(PID)
    (folder / "map_files").mkdir(parents=True)
    (folder / "root").mkdir()
    return folder


def maps(process: Path, *lines: str) -> Procfs:
    (process / "maps").write_text("".join(f"{line}\n" for line in lines))
    return Procfs(str(process.parent))


def library(process: Path, content: bytes = b"new") -> Path:
    path = process / "root" / "libssl.so.3"
    path.write_bytes(content)
    return path


def line_of(path: Path, permissions: str = "r-xp", suffix: str = "", *, path_inside: str = "/libssl.so.3") -> str:
    return f"00400000-7f50a000 {permissions} 0001d000 fe:01 {path.stat().st_ino}    {path_inside}{suffix}"


def content_of(file: int | None) -> bytes:
    assert file is not None
    with os.fdopen(file, "rb") as opened:
        return opened.read()


def test_only_what_is_run_is_told_once_with_the_kernels_number_of_its_device(process: Path) -> None:
    """Nor what is no file."""
    path = library(process)
    procfs = maps(
        process,
        line_of(path, "r--p"),
        line_of(path),
        line_of(path),
        "7fff00000000-7fff00001000 r-xp 00000000 00:00 0    [vdso]",
        "7f0000000000-7f0000001000 r-xp 00000000 00:00 0",
    )

    assert [MappedFile(path.stat().st_ino, 0xFE << 20 | 1, b"/libssl.so.3")] == procfs.mapped_files(PID)


def test_a_name_may_hold_spaces(process: Path) -> None:
    procfs = maps(process, line_of(library(process), path_inside="/my libs/libssl.so.3"))

    assert [b"/my libs/libssl.so.3"] == [mapped.path for mapped in procfs.mapped_files(PID)]


def test_a_file_is_reached_through_the_root_of_its_process(process: Path) -> None:
    procfs = maps(process, line_of(library(process)))

    (mapped,) = procfs.mapped_files(PID)

    assert b"new" == content_of(procfs.open_mapped(PID, mapped))


def test_a_file_that_was_replaced_is_reached_through_its_mapping(process: Path) -> None:
    old = process / "kept-by-the-mapping"
    old.write_bytes(b"old")
    (process / "map_files" / "400000-7f50a000").symlink_to(old)
    library(process)
    procfs = maps(process, line_of(old, suffix=" (deleted)"))

    (mapped,) = procfs.mapped_files(PID)

    assert b"/libssl.so.3" == mapped.path
    assert b"old" == content_of(procfs.open_mapped(PID, mapped))


def test_what_took_its_place_is_never_opened_for_it(process: Path) -> None:
    """Nor is anything left open."""
    old = process / "replaced"
    old.write_bytes(b"old")
    library(process)
    procfs = maps(process, line_of(old))
    before = os.listdir("/proc/self/fd")

    (mapped,) = procfs.mapped_files(PID)

    assert procfs.open_mapped(PID, mapped) is None
    assert before == os.listdir("/proc/self/fd")


def test_a_process_that_is_gone_has_mapped_nothing(process: Path) -> None:
    procfs = Procfs(str(process.parent))

    assert [] == procfs.mapped_files(8)
    assert procfs.open_mapped(8, MappedFile(1, 1, b"/libssl.so.3")) is None
