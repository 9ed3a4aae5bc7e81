"""Connections whose both ends are in this process: requests that it receives, and others that it sends meanwhile.

In:   watched programs
Out:  the parents that they tell of
Owns: the connections
"""

from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, create_server, socket

from tests.kernel.parents import OK, REQUEST, Parent, in_a_thread, parents_seen
from tests.kernel.wire import Watched, Wire


class Scene:
    def __init__(self, watched: Watched, folder: Path, stack: ExitStack) -> None:
        self.watched, self._folder, self._stack = watched, folder, stack

    def wire(self) -> Wire:
        made = Wire(AF_INET, self._folder)
        self._stack.callback(made.close)
        return made

    def listener(self) -> socket:
        listener = create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._stack.callback(listener.close)
        return listener

    def receive(self, path: bytes, wire: Wire | None = None) -> Wire:
        """What runs now reads a request that another thread has sent."""
        wire = wire or self.wire()
        in_a_thread(lambda: wire.client.sendall(REQUEST % path))
        assert REQUEST % path == wire.server.recv(65536)
        return wire

    def answer(self, wire: Wire, count: int = 1) -> None:
        wire.server.sendall(OK * count)
        in_a_thread(lambda: wire.client.recv(65536))

    def call(self, path: bytes) -> None:
        """What runs now sends a request."""
        self.wire().client.sendall(REQUEST % path)

    def parents(self, count: int) -> dict[str, Parent | None]:
        return parents_seen(self.watched, count)
