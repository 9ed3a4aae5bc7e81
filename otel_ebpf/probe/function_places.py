"""What is known of a function that is probed: where it begins and ends.

In:   nothing
Out:  FunctionPlaces
Owns: nothing
"""

from typing import NamedTuple


class FunctionEnd(NamedTuple):
    """An instruction behind which nothing happens but that the function returns."""

    offset: int  # in the file
    result: int  # where what it returns is meanwhile: RESULT_IN_ in bpf/lookup_calls.c; 0: where results are
    is_emulated: bool  # the instruction is cheap


class FunctionPlaces(NamedTuple):
    begin: int  # in the file; the arguments are in place
    is_emulated: bool  # the instruction there is cheap
    ends: tuple[FunctionEnd, ...]
