"""What is known of a Go program: where the probes on its goroutines go, and where these keep what is asked of them.

In:   nothing
Out:  GoProgram
Owns: nothing
"""

from typing import NamedTuple


class Layout(NamedTuple):
    """Offsets in runtime.g, then one in net/http.Request, in the order of struct go_program."""

    number: int
    parent_number: int
    start: int  # the function that it was started with
    context: int


class GoProgram(NamedTuple):
    """Places in the file; see go_program.py."""

    layout: Layout
    born: int
    round_trip: int  # 0: the program has no client of net/http
    write: int
    handled: int  # 0: it does not both serve and call by net/http
