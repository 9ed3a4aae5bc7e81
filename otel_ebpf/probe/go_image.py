"""Functions of a Go program by name, in stripped ones too: Go needs its own table of them to run.

In:   an ELF file that the Go linker made, 1.20 and later
Out:  GoImage: the Go version, addresses and code of functions; NoGoError, or UnreadableTlsError that says what is missing
Owns: nothing

The table (.gopclntab, runtime/symtab.go in Go's source) gives places from the beginning of Go's own code. Where that
is stands in the table's header, since 1.26 in the linker's module data; in position-independent programs as a
relocation.
"""

import re
import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section
from iced_x86 import Decoder, Instruction

from otel_ebpf.probe.elf_image import UnreadableTlsError

_MAX_FUNCTION_BYTES = 1 << 16
_BUILD_INFO_MAGIC = b"\xff Go buildinf:"  # debug/buildinfo
_VERSION_AT, _FLAGS_AT, _INLINE = 32, 15, 2
_TABLE_BEGINS = b"\xf1\xff\xff\xff\0\0\x01\x08"  # since 1.20; x86: instructions of any length, pointers of 8 bytes
_HEADER = struct.Struct("<8x8Q")  # struct pcHeader
_TEXT_START_AT = 24  # in it
_MODULE_TEXT_AT = 176  # struct moduledata: text
_RELOCATION_BYTES = 24  # Elf64_Rela
_X86_64 = "EM_X86_64"


class NoGoError(Exception):
    """The file is no Go program."""


class _Table(NamedTuple):
    address: int
    content: bytes  # from its header on
    function_count: int
    text_start: int  # 0: not said here
    names_at: int
    functions_at: int


class GoImage:
    """What is wrong with the file itself comes as pyelftools' and Python's own errors."""

    def __init__(self, file: BinaryIO) -> None:
        self._elf = ELFFile(file)
        self.version = self._version()
        if self._elf["e_machine"] != _X86_64:
            raise UnreadableTlsError(f"its machine is {self._elf['e_machine']}: x86-64 alone is read")
        self._sections = [section for section in self._elf.iter_sections() if section["sh_type"] != "SHT_NOBITS"]
        self._table = self._find_table()
        self._text = self._find_text()

    def functions(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Address and bytes of those that the program has."""
        table = self._table
        wanted = {}
        for name in names:
            at = table.content.find(b"\0" + name.encode() + b"\0", table.names_at, table.functions_at)
            if at >= 0:
                wanted[at + 1 - table.names_at] = name
        words = array("I")
        words.frombytes(memoryview(table.content)[table.functions_at : len(table.content) & ~3])
        pairs = words[: 2 * table.function_count + 1]  # offsets of code and of what is known of it, then the end
        found: dict[str, tuple[int, int]] = {}
        for index, about in enumerate(pairs[1::2]):
            name = wanted.get(words[about // 4 + 1], "")
            if name:
                begin, end = pairs[2 * index], pairs[2 * index + 2]
                found.setdefault(name, (self._text + begin, end - begin))
        return found

    def code(self, address: int, size: int) -> Iterator[Instruction]:
        return iter(Decoder(64, self._read(address, min(size, _MAX_FUNCTION_BYTES)), ip=address))

    def offset(self, address: int) -> int:
        """Place in the file of a virtual address."""
        for offset in self._elf.address_offsets(address):
            return int(offset)
        raise UnreadableTlsError(f"address {address:#x} is in no segment")

    def _version(self) -> tuple[int, int]:
        section = self._elf.get_section_by_name(".go.buildinfo")
        if section is None:
            raise NoGoError
        content = self._content(section)
        if content[: len(_BUILD_INFO_MAGIC)] != _BUILD_INFO_MAGIC:
            raise NoGoError
        said = re.search(rb"go(\d+)\.(\d+)", content[_VERSION_AT:])
        if said is None or not content[_FLAGS_AT] & _INLINE:
            raise UnreadableTlsError("it does not say which Go made it, or one before 1.18 did")
        return int(said[1]), int(said[2])

    def _find_table(self) -> _Table:
        """In a section of its own, or among constants, where another linker has merged it with them."""
        for named in (True, False):
            for section in self._sections:
                is_wanted = section.name.endswith(".gopclntab") if named else section.name.startswith(".data.rel.ro")
                if is_wanted and (table := self._table_in(section)):
                    return table
        raise UnreadableTlsError("it has no table of functions of Go 1.20 or later")

    def _table_in(self, section: Section) -> _Table | None:
        content, at = self._content(section), -1
        while (at := content.find(_TABLE_BEGINS, at + 1)) >= 0:
            count, _, text_start, names_at, *_, functions_at = _HEADER.unpack_from(content, at)
            if 0 < count and names_at < functions_at < functions_at + 8 * count < len(content) - at:
                return _Table(section["sh_addr"] + at, content[at:], count, text_start, names_at, functions_at)
        return None

    def _find_text(self) -> int:
        if self._table.text_start:
            return self._table.text_start
        module = self._elf.get_section_by_name(".go.module")
        places = [self._table.address + _TEXT_START_AT]
        if module is not None:
            places.append(module["sh_addr"] + _MODULE_TEXT_AT)
        for place in places:
            if text := self._word(place):
                return text
        raise UnreadableTlsError("it does not say where its code begins")

    def _word(self, address: int) -> int:
        """As it will be once the program is loaded, at no offset."""
        wanted = struct.pack("<Q", address)
        for section in self._sections:
            if section["sh_type"] != "SHT_RELA":
                continue
            content, at = self._content(section), -1
            while (at := content.find(wanted, at + 1)) >= 0:
                if at % _RELOCATION_BYTES == 0:
                    return int(struct.unpack_from("<q", content, at + 16)[0])
        return int(struct.unpack("<Q", self._read(address, 8))[0])

    def _content(self, section: Section) -> bytes:
        self._elf.stream.seek(section["sh_offset"])
        return bytes(self._elf.stream.read(section["sh_size"]))

    def _read(self, address: int, size: int) -> bytes:
        self._elf.stream.seek(self.offset(address))
        return bytes(self._elf.stream.read(size))
