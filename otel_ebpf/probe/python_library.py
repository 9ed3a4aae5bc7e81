"""Where CPython makes, enters and frees its contexts: where a probe costs little, and which register holds the context.

In:   an ELF file: libpython3.x.so, or an interpreter that holds all of it
Out:  PythonLibrary; NoPythonError, or UnreadablePythonError that says what stands in the way
Owns: nothing
"""

from typing import BinaryIO

from elftools.elf.elffile import ELFFile

from otel_ebpf.probe.cheap_places import argument_place, pointer_at, spot_of, value_places
from otel_ebpf.probe.elf_image import IMPOSSIBLE, ElfImage, UnreadableTlsError
from otel_ebpf.probe.python_findings import PythonLibrary

_TYPE, _COPY_CURRENT = "PyContext_Type", "PyContext_CopyCurrent"
_MAKERS = (_COPY_CURRENT, "PyContext_Copy", "PyContext_New")
_ENTER = "PyContext_Enter"
_NAMES = (_TYPE, *_MAKERS, _ENTER)
TP_DEALLOC = 48  # in struct _typeobject, 64 bits


class NoPythonError(Exception):
    """The file holds no CPython."""


class UnreadablePythonError(Exception):
    """It does, and its contexts cannot be followed; the message says why."""


def inspect(file: BinaryIO) -> PythonLibrary:
    try:
        elf = ELFFile(file)
        image = ElfImage(elf, _NAMES)
        if not {_TYPE, _COPY_CURRENT, _ENTER} <= image.names:
            raise NoPythonError
        if elf["e_machine"] != "EM_X86_64":
            raise UnreadablePythonError(f"its machine is {elf['e_machine']}: x86-64 alone is read")
        births: dict[int, int] = {}
        for name in _MAKERS:
            if name in image:
                places = value_places(image, image.address(name))
                if places is None and name == _COPY_CURRENT:
                    raise UnreadablePythonError(f"{name} has no place where a probe is cheap")
                births |= dict(places or ())
        code = image.address(_COPY_CURRENT)
        return PythonLibrary(
            image.address(_TYPE),
            code - image.offset(code),
            tuple(sorted(spot_of(image, place) for place in births.items())),
            spot_of(image, argument_place(image, pointer_at(elf, image, image.address(_TYPE) + TP_DEALLOC))),
            spot_of(image, argument_place(image, image.address(_ENTER))),
        )
    except UnreadableTlsError as error:
        raise UnreadablePythonError(str(error)) from error
    except IMPOSSIBLE as error:
        raise UnreadablePythonError(f"it is no ELF file that can be read: {error}") from error
