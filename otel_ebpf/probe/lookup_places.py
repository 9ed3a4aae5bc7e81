"""What is known of a C library: where getaddrinfo begins and ends.

In:   nothing
Out:  LookupPlaces
Owns: nothing
"""

from typing import NamedTuple


class LookupEnd(NamedTuple):
    """An instruction behind which nothing happens but that the function returns."""

    offset: int  # in the file
    result: int  # where what it returns is meanwhile: RESULT_IN_ in bpf/lookups.c; 0: where results are
    is_emulated: bool  # the instruction is cheap


class LookupPlaces(NamedTuple):
    begin: int  # in the file; the arguments are in place
    is_emulated: bool  # the instruction there is cheap
    ends: tuple[LookupEnd, ...]
