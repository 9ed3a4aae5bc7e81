"""The functions of an ELF file by name, and their instructions.

In:   an ELF file, and the names that are wanted
Out:  places in the file, instructions of x86-64; UnreadableTlsError
Owns: nothing
"""

import re
import struct
from collections.abc import Iterable, Iterator

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection
from iced_x86 import Code, Decoder, Instruction, Mnemonic, OpKind

_MAX_FUNCTION_BYTES = 4096
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_MAX_OFFSET = 0x7FFF
_CALL_OR_JUMP = re.compile(rb"[\xe8\xe9]")  # of x86-64, to an address relative to the next instruction
_CALL_BYTES = 5
_BYTES_TO_FALL_INTO_STEP = 128
_NEAR_BYTES = 1 << 20
# What numbers raise that no linker writes.
IMPOSSIBLE = (ELFError, ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error)


class UnreadableTlsError(Exception):
    """It has TLS functions, and they cannot be used; the message says why."""


class ElfImage:
    """Symbols and code of one file."""

    def __init__(self, elf: ELFFile, names: Iterable[str]) -> None:
        """Of its symbols only `names` are kept."""
        self._elf = elf
        self._wanted = tuple(names)
        self._symbols: dict[str, tuple[int, int]] = {}  # address, bytes
        for section in (".dynsym", ".symtab"):
            table = elf.get_section_by_name(section)
            if isinstance(table, SymbolTableSection) and table["sh_entsize"] == _SYMBOL.size:
                self._read(table)

    @property
    def names(self) -> set[str]:
        return set(self._symbols)

    def __contains__(self, name: str) -> bool:
        return name in self._symbols

    def address(self, name: str) -> int:
        return self._symbols[name][0]

    def extent(self, name: str) -> tuple[int, int]:
        """Its address, and how many bytes it has."""
        return self._symbols[name]

    def offset(self, address: int) -> int:
        """Place in the file of a virtual address."""
        for offset in self._elf.address_offsets(address):
            return int(offset)
        raise UnreadableTlsError(f"address {address:#x} is in no segment")

    def code(self, name: str, most_bytes: int = _MAX_FUNCTION_BYTES) -> Iterator[Instruction]:
        address, size = self._symbols[name]
        return self.code_at(address, size, most_bytes)

    def code_at(self, address: int, size: int, most_bytes: int = _MAX_FUNCTION_BYTES) -> Iterator[Instruction]:
        return iter(Decoder(64, self.bytes_at(address, min(size, most_bytes)), ip=address))

    def bytes_at(self, address: int, size: int) -> bytes:
        """As the file has them."""
        self._elf.stream.seek(self.offset(address))
        return bytes(self._elf.stream.read(size))

    def references(self, address: int) -> Iterator[Instruction]:
        """Each call of this function from near it, and each jump to it: those of its own library, also in a larger program."""
        start, end = self._code_around(address)
        code = self.bytes_at(start, end - start)
        for found in _CALL_OR_JUMP.finditer(code):
            at = found.start()
            if (
                start + at + _CALL_BYTES + int.from_bytes(code[at + 1 : at + _CALL_BYTES], "little", signed=True)
                != address
            ):
                continue
            # Not within another instruction: decoding falls into step after a few.
            begin = max(0, at - _BYTES_TO_FALL_INTO_STEP)
            decoded = Decoder(64, code[begin : at + _CALL_BYTES], ip=start + begin)
            yield from (one for one in decoded if one.ip == start + at and one.near_branch_target == address)

    def _code_around(self, address: int) -> tuple[int, int]:
        for segment in self._elf.iter_segments("PT_LOAD"):
            start, end = segment["p_vaddr"], segment["p_vaddr"] + segment["p_filesz"]
            if start <= address < end:
                return max(start, address - _NEAR_BYTES), min(end, address + _NEAR_BYTES)
        raise UnreadableTlsError(f"address {address:#x} is in no segment")

    def _read(self, table: SymbolTableSection) -> None:
        """Large programs have 200,000 symbols: they are gone through as bytes, not as objects."""
        strings = self._bytes(table.stringtable)
        places: dict[int, str] = {}
        for name in self._wanted:
            wanted, at = name.encode() + b"\0", -1
            while (at := strings.find(wanted, at + 1)) >= 0:
                places[at] = name  # also within a longer name: the linker lets them share their ends
        if places:
            for name_at, _, _, section, address, size in _SYMBOL.iter_unpack(self._bytes(table)):
                if name_at in places and section and address:
                    self._symbols.setdefault(places[name_at], (address, size))

    def _bytes(self, section: Section) -> bytes:
        self._elf.stream.seek(section["sh_offset"])
        size = section["sh_size"]
        return bytes(self._elf.stream.read(size - size % section["sh_entsize"] if section["sh_entsize"] else size))


def loads(instruction: Instruction, base: int) -> bool:
    """mov disp(base),%reg of 64 bits"""
    return instruction.code == Code.MOV_R64_RM64 and instruction.memory_base == base


def offset_in_object(displacement: int) -> int:
    if not 0 < displacement <= _MAX_OFFSET:
        raise UnreadableTlsError(f"an offset of {displacement} is no place in an object")
    return displacement


def cheap_place(code: Iterator[Instruction]) -> int | None:
    """The first instruction, if the kernel emulates it; behind the marker of a branch target it does as well."""
    for instruction in code:
        if instruction.mnemonic == Mnemonic.ENDBR64:
            continue
        is_push = instruction.mnemonic == Mnemonic.PUSH and instruction.op0_kind == OpKind.REGISTER
        return instruction.ip if is_push else None
    return None
