from pathlib import Path

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe.kprobes import KPROBES, WAIT_KPROBES
from otel_ebpf.probe.programs import (
    HEADERS,
    SOCKET_PROGRAMS,
    TAIL_PROGRAMS,
    Part,
    SocketBackend,
    bpf_folder,
    fragments_of,
    read_source,
    rows_of,
)

TRACEPOINT = SocketBackend.TRACEPOINT
FRAGMENTS = fragments_of(TRACEPOINT, Part.SOCKETS)


def folder_of_fragments(folder: Path) -> Path:
    folder.mkdir()
    for name in (*HEADERS, *FRAGMENTS):
        (folder / name).write_text(f"// {name}\n")
    return folder


def test_fragments_are_joined_in_order_each_under_its_own_name(tmp_path: Path):
    """A compiler's message then names the file and line that one can open."""
    source = read_source(TRACEPOINT, Part.SOCKETS, folder_of_fragments(tmp_path / "bpf"))

    lines = source.text.splitlines()
    places = [lines.index(f'#line 1 "{name}"') for name in FRAGMENTS]
    assert sorted(places) == places
    assert all(f"// {name}" == lines[place + 1] for name, place in zip(FRAGMENTS, places, strict=True))
    assert lines[: len(HEADERS)] == [f'#include "{name}"' for name in HEADERS]


def test_a_changed_header_makes_another_source(tmp_path: Path):
    """Headers are included, not joined: the text alone would look the same to the cache."""
    folder = folder_of_fragments(tmp_path / "bpf")
    before = read_source(TRACEPOINT, Part.SOCKETS, folder)
    (folder / HEADERS[0]).write_text("// changed\n")

    after = read_source(TRACEPOINT, Part.SOCKETS, folder)

    assert before.text == after.text
    assert before != after


def test_a_missing_fragment_is_named(tmp_path: Path):
    folder = folder_of_fragments(tmp_path / "bpf")
    (folder / FRAGMENTS[1]).unlink()

    with pytest.raises(ProbeError, match=FRAGMENTS[1]):
        read_source(TRACEPOINT, Part.SOCKETS, folder)


def test_sources_are_found_inside_an_installed_package(tmp_path: Path):
    package = tmp_path / "site-packages/otel_ebpf"
    package.mkdir(parents=True)
    folder = folder_of_fragments(package / "bpf")

    assert folder == bpf_folder(package)


def test_sources_are_found_beside_the_package_in_a_checkout(tmp_path: Path):
    folder = folder_of_fragments(tmp_path / "bpf")

    assert folder == bpf_folder(tmp_path / "otel_ebpf")


def test_a_package_without_sources_is_refused_with_both_places(tmp_path: Path):
    with pytest.raises(ProbeError, match=r"otel_ebpf/bpf nor in .*/bpf"):
        bpf_folder(tmp_path / "otel_ebpf")


def test_every_source_file_of_the_project_is_listed_once():
    """A fragment that nobody joins would be dead without anyone noticing."""
    texts = [fragments_of(backend, part) for backend in SocketBackend for part in Part]
    assert [] == [names for names in texts if len(set(names)) < len(names)]
    listed = {*HEADERS, *(name for names in texts for name in names)}

    assert sorted(listed) == sorted(path.name for path in bpf_folder().iterdir() if path.suffix in (".c", ".h"))


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("backend", SocketBackend)
def test_every_program_of_the_table_is_in_the_source_of_its_part(backend: SocketBackend, part: Part):
    text = read_source(backend, part).text

    assert [] == [row.function for row in rows_of(backend, part) if f"int {row.function}(" not in text]


def test_every_kprobe_has_its_programs():
    """And there is no program that none of them runs."""
    run = {name for row in (*KPROBES, *WAIT_KPROBES) for name in (row.program, row.program_at_return) if name}

    assert {row.function for row in SOCKET_PROGRAMS[SocketBackend.KPROBE]} == run | {name for name, _ in TAIL_PROGRAMS}
