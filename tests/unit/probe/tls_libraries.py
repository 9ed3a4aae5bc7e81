"""The TLS library of this interpreter, whole and broken.

In:   which of its numbers are to be others
Out:  its path, its bytes
Owns: nothing
"""

import os
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.tls_library import _NAMES

_WIDTHS = (1, 2, 4, 8)
_CODE_BYTES = 64


@cache
def system_library() -> Path:
    import _ssl  # noqa: F401 - maps it

    paths = [os.fsdecode(mapped.path) for mapped in Procfs().mapped_files(os.getpid())]
    return Path(next(path for path in paths if "/libssl.so" in path))


@cache
def content() -> bytes:
    return system_library().read_bytes()


@cache
def places() -> tuple[range, ...]:
    """What a reader believes: headers, the table of sections, that of segments, symbols, names, code."""
    elf = ELFFile(BytesIO(content()))
    found = [range(64), table(elf["e_shoff"], elf["e_shnum"] * elf["e_shentsize"])]
    found.append(table(elf["e_phoff"], elf["e_phnum"] * elf["e_phentsize"]))
    symbols = elf.get_section_by_name(".dynsym")
    found += [table(section["sh_offset"], section["sh_size"]) for section in (symbols, symbols.stringtable)]
    for name in _NAMES:
        (symbol,) = symbols.get_symbol_by_name(name)
        found.append(table(next(elf.address_offsets(symbol["st_value"])), _CODE_BYTES))
    return tuple(found)


def table(at: int, size: int) -> range:
    return range(at, at + size)


def changed(changes: Iterable[tuple[int, int, int, int]], length: int | None = None) -> bytes:
    """Each change: which table, where in it, how wide, the number; `length`: where the file is cut off."""
    made = bytearray(content())
    for which, where, width_index, number in changes:
        chosen = places()[which % len(places())]
        width = _WIDTHS[width_index % len(_WIDTHS)]
        begin = chosen[where % len(chosen)] // width * width
        made[begin : begin + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
    return bytes(made[:length])


def endless_library(folder: Path) -> Path:
    """Its headers claim more sections than can be gone through."""
    made = bytearray(content())
    sections_at = int.from_bytes(made[0x28:0x30], "little")
    made[0x3C:0x3E] = bytes(2)  # e_shnum: the first section's size tells
    made[sections_at + 32 : sections_at + 40] = (1 << 62).to_bytes(8, "little")
    path = folder / "endless.so"
    path.write_bytes(made)
    os.truncate(path, 8 << 30)
    return path
