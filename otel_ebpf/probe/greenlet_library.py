"""Where greenlet keeps which greenlet runs, and makes and frees them.

In:   an ELF file: greenlet's extension module
Out:  GreenletLibrary; NoGreenletError, or UnreadablePythonError that says what stands in the way
Owns: nothing

It needs no symbols: the type of all greenlets is known by its name, and says by which functions they begin and end.
"""

from typing import BinaryIO

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from otel_ebpf.probe.cheap_places import argument_place, pointer_at, pointers, spot_of
from otel_ebpf.probe.elf_image import IMPOSSIBLE, ElfImage, UnreadableTlsError
from otel_ebpf.probe.python_findings import GreenletLibrary
from otel_ebpf.probe.python_library import TP_DEALLOC, UnreadablePythonError

_TYPE_NAME = b"\0greenlet.greenlet\0"
_TP_NAME, _TP_INIT = 24, 296  # in struct _typeobject, 64 bits
_R_X86_64_DTPMOD64 = 16


class NoGreenletError(Exception):
    """The file is not greenlet."""


def inspect(file: BinaryIO) -> GreenletLibrary:
    try:
        elf = ELFFile(file)
        image = ElfImage(elf, ())
        type_address = _type_address(elf)
        begin, end = (pointer_at(elf, image, type_address + slot) for slot in (_TP_INIT, TP_DEALLOC))
        if not begin or not end or elf["e_machine"] != "EM_X86_64":
            raise UnreadablePythonError("greenlet's type does not say how its objects begin and end")
        birth, death = spot_of(image, argument_place(image, begin)), spot_of(image, argument_place(image, end))
        return GreenletLibrary(type_address, _module_slot(elf), begin - image.offset(begin), (birth,), death)
    except UnreadableTlsError as error:
        raise UnreadablePythonError(str(error)) from error
    except IMPOSSIBLE as error:
        raise UnreadablePythonError(f"it is no ELF file that can be read: {error}") from error


def _type_address(elf: ELFFile) -> int:
    for segment in elf.iter_segments("PT_LOAD"):
        at = segment.data().find(_TYPE_NAME)
        if at >= 0:
            name = segment["p_vaddr"] + at + 1
            for place, value in pointers(elf):
                if value == name:
                    return place - _TP_NAME
    raise NoGreenletError


def _module_slot(elf: ELFFile) -> int:
    table = elf.get_section_by_name(".rela.dyn")
    for relocation in table.iter_relocations() if isinstance(table, RelocationSection) else ():
        if relocation["r_info_type"] == _R_X86_64_DTPMOD64:
            return int(relocation["r_offset"])
    raise UnreadablePythonError("greenlet keeps nothing in thread-local storage that can be found")
