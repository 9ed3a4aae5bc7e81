"""The local ends of this process's connections to the collector.

In:   sockets
Out:  (16 address bytes, port), as exchanges have them
Owns: the ends seen lately

A collector on this host may be a watched service; the requests that it gets from us are no one's requests.
"""

import os
import socket
import stat
import threading
from collections.abc import Iterable
from time import monotonic

DESCRIPTORS_WITHOUT_PROC = 256
KEEP_SECONDS = 10.0  # an exchange is reported at most a second after it ended
Endpoint = tuple[bytes, int]
_MAPPED_IPV4 = bytes(10) + b"\xff\xff"


def endpoints_of(name: tuple[str, int]) -> tuple[Endpoint, ...]:
    """Both forms of a getsockname(): a dual-stack server sees an IPv4 peer as ::ffff:a.b.c.d."""
    host, port = name
    if ":" not in host:
        packed = socket.inet_pton(socket.AF_INET, host)
        return (packed.ljust(16, b"\0"), port), (_MAPPED_IPV4 + packed, port)
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED_IPV4):
        return (packed[12:].ljust(16, b"\0"), port), (packed, port)
    return ((packed, port),)


class OwnConnections:
    """Local ends that are open, or were a moment ago. Noted in the sender's thread, read in another."""

    def __init__(self) -> None:
        self._last_open: dict[Endpoint, float] = {}
        self._lock = threading.Lock()

    def note(self, endpoints: tuple[Endpoint, ...]) -> None:
        """These are open now. First called before a byte is sent, so that no exchange is older than its note."""
        with self._lock:
            self._last_open.update(dict.fromkeys(endpoints, monotonic()))

    def endpoints(self) -> frozenset[Endpoint]:
        """Those that were open a moment ago; older ones are forgotten, the port may be another's by now."""
        oldest = monotonic() - KEEP_SECONDS
        with self._lock:
            self._last_open = {end: at for end, at in self._last_open.items() if at > oldest}
            return frozenset(self._last_open)


class SocketScan:
    """Finds the process's own sockets by their descriptors, for a library that hides them (gRPC)."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Endpoint, ...]] = {}  # (fd, inode): a name does not change

    def endpoints(self) -> tuple[Endpoint, ...]:
        found: dict[tuple[int, int], tuple[Endpoint, ...]] = {}
        for fd in open_descriptors():
            try:
                status = os.fstat(fd)
            except OSError:
                continue  # not open, or the one that the folder was read through
            if stat.S_ISSOCK(status.st_mode):
                key = fd, status.st_ino
                found[key] = self._known[key] if key in self._known else connected_ends(fd)
        # A socket that is not connected yet is looked at again.
        self._known = {key: ends for key, ends in found.items() if ends}
        return tuple(end for ends in found.values() for end in ends)


def open_descriptors() -> Iterable[int]:
    """The descriptors that may be open: all of them, or where /proc is out of reach the first few hundred."""
    try:
        return map(int, os.listdir("/proc/self/fd"))
    except OSError:
        return range(DESCRIPTORS_WITHOUT_PROC)


def connected_ends(fd: int) -> tuple[Endpoint, ...]:
    """The local end of a connected TCP socket, nothing for any other descriptor."""
    try:
        with socket.socket(fileno=os.dup(fd)) as own:
            if own.family not in (socket.AF_INET, socket.AF_INET6) or own.type != socket.SOCK_STREAM:
                return ()
            own.getpeername()
            return endpoints_of(own.getsockname()[:2])
    except OSError:
        return ()
