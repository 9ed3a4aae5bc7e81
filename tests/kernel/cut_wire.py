"""A wire that can be cut: its ends are in two network namespaces of their own, joined by a virtual cable.

A cut says nothing to either side, as when a host loses its power: what is sent is not acknowledged any more.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.kernel.wire import Wire
from tests.services.processes import wait_until

CLONE_NEWNET = 0x40000000
USER_TIMEOUT_MS = 300
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """Lives as long as its descriptor, or a socket made in it."""

    def __init__(self, address: str) -> None:
        self.address = address
        with back_home():
            _check(_libc.unshare(CLONE_NEWNET))
            self.descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        with back_home():
            _check(_libc.setns(self.descriptor, CLONE_NEWNET))
            yield

    def ip(self, *words: str) -> None:
        """`ip` of iproute2, in this namespace."""
        program = shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin") or "ip"
        with self.inside():
            subprocess.run([program, *words], check=True)


@contextmanager
def back_home() -> Iterator[None]:
    """This thread is in its own namespace again afterwards."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        _check(_libc.setns(home, CLONE_NEWNET))
        os.close(home)


class CutWire(Wire):
    """TCP gives up after USER_TIMEOUT_MS without an acknowledgement, on both sides."""

    def __init__(self) -> None:
        ours, theirs = Namespace("10.9.0.1"), Namespace("10.9.0.2")
        self.namespaces: tuple[Namespace, ...] = (ours, theirs)
        ours.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", theirs.path)
        for namespace in self.namespaces:
            namespace.ip("address", "add", f"{namespace.address}/24", "dev", "cable")
            namespace.ip("link", "set", "cable", "up")
        self._wait_until_joined()
        with theirs.inside():
            listener = socket.create_server((theirs.address, 0))
        with listener:
            with ours.inside():
                self.client = socket.create_connection(listener.getsockname()[:2])
            self.server, _ = listener.accept()
        for end in (self.client, self.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            end.settimeout(60)

    def _wait_until_joined(self) -> None:
        """What is first sent over a new cable may be lost. Were it a SYN, TCP would take the second until the next one
        for the delay of the way, and only give up much later than it was told."""
        ours, theirs = self.namespaces
        with ours.inside():
            here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with theirs.inside():
            there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with here, there:
            there.bind((theirs.address, 0))
            there.setblocking(False)

            def arrives() -> bool:
                here.sendto(b"?", there.getsockname())
                try:
                    return bool(there.recv(1))
                except BlockingIOError:
                    return False

            wait_until(arrives, "the cable joins its ends")

    def cut(self, at_the_servers_end: bool) -> None:
        """The other end only notices that its cable is dead; the end itself has no way out any more."""
        self.namespaces[at_the_servers_end].ip("link", "set", "cable", "down")

    def close(self) -> None:
        super().close()
        namespaces, self.namespaces = self.namespaces, ()
        for namespace in namespaces:
            os.close(namespace.descriptor)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
