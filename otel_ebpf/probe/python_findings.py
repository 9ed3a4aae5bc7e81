"""What is known of CPython, greenlet and Python's queue: where their probes go, and where they keep what runs.

In:   nothing
Out:  PythonLibrary, GreenletLibrary, QueueLibrary
Owns: nothing
"""

from dataclasses import dataclass

# Place in the file; where in struct pt_regs a register is saved, and how far from there on the stack, if it is there.
Spot = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PythonLibrary:
    """Addresses are as the file numbers them. The register holds the context."""

    type_address: int  # of PyContext_Type
    code_shift: int  # address minus place in the file, of code
    births: tuple[Spot, ...]  # where one has been made
    death: Spot  # in what frees them
    entry: Spot  # in PyContext_Enter


@dataclass(frozen=True, slots=True)
class GreenletLibrary:
    """The same. The register holds the greenlet."""

    type_address: int  # of PyGreenlet_Type
    module_slot: int  # address of what the loader sets to the number of this file's thread-local storage
    code_shift: int
    births: tuple[Spot, ...]
    death: Spot


@dataclass(frozen=True, slots=True)
class QueueLibrary:
    put: Spot  # the register holds the address of the arguments
    gets: tuple[Spot, ...]  # what is returned


Library = PythonLibrary | GreenletLibrary | QueueLibrary
