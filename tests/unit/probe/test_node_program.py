"""Where an official build of Node keeps its numbers: read from the one that tests run, and from what is like it but for a word."""

import io
import struct
from pathlib import Path

import pytest

from otel_ebpf.probe.elf_image import UnreadableTlsError
from otel_ebpf.probe.node_program import NoNodeError, inspect
from tests.services.servers import program


@pytest.fixture(scope="module")
def node() -> bytes:
    return Path(program("node")).resolve().read_bytes()


def test_what_follows_callbacks_is_found_in_an_official_build(node: bytes) -> None:
    """The probe stands on `push rbp`, and each table of functions begins with an address in the program's code."""
    found = inspect(io.BytesIO(node))

    assert b"\x55" == node[found.made : found.made + 1]
    layout = found.layout
    assert 0 < layout.realm < layout.id < layout.listener_of_parser < layout.stream_of_handle
    assert 4 == len({layout.tcp, layout.pipe, layout.tls, layout.parser})


def test_what_follows_promises_is_found_there_too(node: bytes) -> None:
    """Each place is a call, a jump or a push, which the kernel emulates."""
    promises = inspect(io.BytesIO(node)).promises

    assert promises is not None
    places = (promises.jobs, promises.jobs_end, *promises.job, promises.other_job, promises.then, promises.then_end)
    assert 8 == len({*places, promises.collected})
    begin = [node[place] for place in (*places, promises.collected)]
    assert [] == [byte for byte in begin if byte not in (0xE8, 0x0F, 0x55) and byte >> 4 != 7]


def test_one_without_a_builtin_has_no_places_for_promises(node: bytes) -> None:
    found = inspect(io.BytesIO(node.replace(b"Builtins_PerformPromiseThen\0", b"Builtins_PerformPromiseThex\0")))

    assert (None, "its symbols lack Builtins_PerformPromiseThen") == (found.promises, found.why_none)


def test_one_without_a_symbol_that_is_needed_is_named(node: bytes) -> None:
    other = node.replace(b"_ZTVN4node7TCPWrapE", b"_ZTVN4node7TCPWrapX")

    with pytest.raises(UnreadableTlsError, match="its symbols lack _ZTVN4node7TCPWrapE"):
        inspect(io.BytesIO(other))


def test_one_that_keeps_its_numbers_otherwise_is_refused(node: bytes) -> None:
    """As a version with another layout would: the number that was given last is one word further."""
    found = inspect(io.BytesIO(node))
    code = node[found.made : found.made + 1024]
    addsd = b"\xf2\x0f\x58"
    offsets = [at for at in range(len(code)) if code.startswith(addsd, at) and code[at + 4] == 0x10]
    assert offsets
    changed = bytearray(code)
    for at in offsets:
        changed[at + 4] = 0x18

    with pytest.raises(UnreadableTlsError, match="its numbers are not kept as any known version keeps them"):
        inspect(io.BytesIO(node.replace(code, bytes(changed))))


def test_a_program_that_is_no_node_is_none() -> None:
    with pytest.raises(NoNodeError), open("/bin/true", "rb") as other:
        inspect(other)


def test_what_is_no_program_is_named() -> None:
    with pytest.raises(UnreadableTlsError, match="no ELF file that can be read"):
        inspect(io.BytesIO(struct.pack("<Q", 0) * 100))
