"""What is known of a TLS library: its functions, and where its objects keep what proves their socket.

In:   nothing
Out:  TlsLibrary
Owns: nothing
"""

from dataclasses import dataclass

NO_STATE_POINTER = 0xFFFF


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes, see struct tls_layout in bpf/maps.h."""

    state_pointer: int
    random: int
    server_flag: int
    server_mask: int
    read_bio: int  # in the object: a pointer to what it reads from; 0: not known
    bio_method: int  # in that
    bio_number: int  # in that, of a socket: its descriptor; 0: it is where `read_bio` says


@dataclass(frozen=True, slots=True)
class Function:
    """Reads or writes plain text. `offset` in the file is where its arguments are still in place."""

    name: str
    offset: int
    is_write: bool
    count_argument: int  # it returns 1, and the count where this argument says, from 1; 0: it returns the count
    is_emulated: bool  # the instruction there is cheap
    result_offsets: tuple[int, ...]  # of the instructions behind its calls, for processes that bear no return probe
    is_of_file: bool = False  # it sends a file, whose bytes are not in the process; its results are at its own returns


@dataclass(frozen=True, slots=True)
class TlsLibrary:
    layout: Layout
    functions: tuple[Function, ...]


@dataclass(frozen=True, slots=True)
class GoTls:
    """crypto/tls in a Go program: places in its file, see go_library.py."""

    version: str  # of Go
    write: int
    written: int
    read: int
