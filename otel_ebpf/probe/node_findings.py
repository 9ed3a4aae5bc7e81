"""What is known of a Node program: where the probes on it go, and where it keeps what is asked of it.

In:   nothing
Out:  NodeProgram
Owns: nothing
"""

from typing import NamedTuple


class Layout(NamedTuple):
    """In the order of struct node_program. Addresses of the first function in each table, and offsets in bytes."""

    tcp: int  # node::TCPWrap's table of functions
    pipe: int
    tls: int
    parser: int
    id: int  # in node::AsyncWrap; the one that it was made under follows
    realm: int
    environment: int  # in node::Realm
    ids: int  # in node::Environment: a pointer to what runs, under what that was made, and the last number given
    hooks: int
    loop: int
    stream_of_handle: int  # in TCPWrap and PipeWrap: node::StreamResource
    stream_of_tls: int
    listener_of_tls: int  # in TLSWrap: node::StreamListener
    listener_of_parser: int


class Promises(NamedTuple):
    """Places in the file; see node_promises.py."""

    jobs: int
    jobs_end: int
    job: tuple[int, ...]
    other_job: int
    then: int
    then_end: int
    collected: int


class NodeProgram(NamedTuple):
    """Places in the file; see node_program.py."""

    layout: Layout
    made: int
    promises: Promises | None
    why_none: str = ""  # if there are no places for promises
