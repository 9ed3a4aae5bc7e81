"""Where CPython hands jobs to the threads of a pool: SimpleQueue.put and what its get returns.

In:   an ELF file that may hold the module _queue: a library of its own, or the interpreter
Out:  QueueLibrary; NoQueueError; UnreadablePythonError when it has one that cannot be followed
Owns: nothing

It needs no symbols: the text that help() shows for a method stands beside the address of its function.
"""

import struct
from typing import BinaryIO

from elftools.elf.elffile import ELFFile
from iced_x86 import Register

from otel_ebpf.probe.cheap_places import argument_place, pointer_at, pointers, spot_of, value_places
from otel_ebpf.probe.elf_image import IMPOSSIBLE, ElfImage, UnreadableTlsError
from otel_ebpf.probe.python_findings import QueueLibrary
from otel_ebpf.probe.python_library import UnreadablePythonError

_PUT = b"put($self, /, item, block=True, timeout=None)\n"
_GETS = (b"get($self, /, block=True, timeout=None)\n", b"get_nowait($self, /)\n")
_ML_METH, _ML_DOC = 8, 24  # in struct PyMethodDef


class NoQueueError(Exception):
    """The file has no _queue."""


def inspect(file: BinaryIO) -> QueueLibrary:
    try:
        elf = ELFFile(file)
        image = ElfImage(elf, ())
        put, *gets = (_function(elf, image, text) for text in (_PUT, *_GETS))
        places = [value_places(image, get) for get in gets]
        found = {place for some in places for place in some or ()}
        if None in places:
            raise UnreadablePythonError("what SimpleQueue.get returns is at no place where a probe is cheap")
        return QueueLibrary(
            spot_of(image, argument_place(image, put, Register.RSI)),
            tuple(sorted(spot_of(image, one) for one in found)),
        )
    except UnreadableTlsError as error:
        raise UnreadablePythonError(str(error)) from error
    except IMPOSSIBLE as error:
        raise UnreadablePythonError(f"it is no ELF file that can be read: {error}") from error


def _function(elf: ELFFile, image: ElfImage, text: bytes) -> int:
    """Of the method with this text."""
    for segment in elf.iter_segments("PT_LOAD"):
        at = segment.data().find(text)
        if at >= 0:
            function = _beside(elf, image, segment["p_vaddr"] + at)
            if function:
                return function
    raise NoQueueError


def _beside(elf: ELFFile, image: ElfImage, text: int) -> int:
    """Where the loader writes the address of the text, or the linker has."""
    for place, value in pointers(elf):
        if value == text:
            return pointer_at(elf, image, place - _ML_DOC + _ML_METH)
    for segment in elf.iter_segments("PT_LOAD"):
        content, at = segment.data(), -1
        while (at := content.find(struct.pack("<Q", text), at + 1)) >= 0:
            if at % 8 == 0:
                return pointer_at(elf, image, segment["p_vaddr"] + at - _ML_DOC + _ML_METH)
    return 0
