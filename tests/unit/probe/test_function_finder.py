"""Where getaddrinfo begins and ends in a library, by what the dynamic linker and a disassembler of its own say."""

import ctypes
import io
import subprocess
from pathlib import Path

import pytest

from otel_ebpf.probe.function_finder import find_function
from otel_ebpf.probe.function_places import FunctionEnd, FunctionPlaces
from tests.services.servers import program

SOURCE = """
int {attributes} getaddrinfo(const char *name, const char *service, const int *hints, int *result) {{
  volatile char buffer[64];
  for (int i = 0; i < 64; i++) buffer[i] = name[i];
  if (*hints > 7) return -1;
  *result = buffer[3] + *hints;
  return service ? *result : -2;
}}
"""


def address_in_memory() -> int:
    address = ctypes.cast(ctypes.CDLL(None).getaddrinfo, ctypes.c_void_p).value
    assert address is not None
    return address


def mapping_of(address: int) -> tuple[Path, int]:
    """The file that is mapped there, and the place in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, _, offset, _, _, *path = line.split(maxsplit=5)
        first, _, last = where.partition("-")
        if int(first, 16) <= address < int(last, 16):
            return Path(path[0]), address - int(first, 16) + int(offset, 16)
    raise AssertionError(f"nothing is mapped at {address:#x}")


def found_in(library: Path) -> FunctionPlaces:
    with library.open("rb") as file:
        places = find_function(file, "getaddrinfo")
    assert places is not None
    return places


def compiled(folder: Path, *options: str, attributes: str = "") -> Path:
    source, library = folder / "libc.c", folder / "libc.so"
    source.write_text(SOURCE.format(attributes=attributes))
    command = [program("gcc"), "-shared", "-fPIC", "-fcf-protection=none", *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def test_it_begins_where_the_dynamic_linker_finds_it():
    library, offset = mapping_of(address_in_memory())

    assert (offset, True) == found_in(library)[:2]


def test_it_ends_with_the_jump_of_the_stack_protector():
    library, _ = mapping_of(address_in_memory())
    (end,) = found_in(library).ends

    assert end.is_emulated
    assert end.result > 0, "it is in a register that calls leave alone"
    with library.open("rb") as file:
        file.seek(end.offset)
        assert bytes([0x0F, 0x85]) == file.read(2), "jne"


def test_without_a_stack_protector_it_ends_with_its_returns(tmp_path: Path):
    places = found_in(compiled(tmp_path, "-O0", "-fno-stack-protector"))

    content = (tmp_path / "libc.so").read_bytes()
    assert [FunctionEnd(end.offset, 0, False) for end in places.ends] == list(places.ends)
    assert {0xC3} == {content[end.offset] for end in places.ends}


def test_behind_the_marker_of_a_branch_target_it_begins_as_well(tmp_path: Path):
    plain = found_in(compiled(tmp_path, "-O0", "-fstack-protector-all"))
    marked = found_in(compiled(tmp_path, "-O0", "-fstack-protector-all", "-fcf-protection=full"))

    assert plain.is_emulated
    assert marked.is_emulated
    content = (tmp_path / "libc.so").read_bytes()
    assert 0x55 == content[marked.begin], "push %rbp"
    assert bytes.fromhex("f30f1efa") == content[marked.begin - 4 : marked.begin], "endbr64"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"\x7fELF\x02\x01\x01" + b"\xff" * 400])
def test_what_is_no_library_has_none(content: bytes):
    assert None is find_function(io.BytesIO(content), "getaddrinfo")


def test_a_library_without_it_has_none():
    with Path("/proc/self/exe").open("rb") as python:  # which asks another library for it
        assert None is find_function(python, "getaddrinfo")
