"""Answers `otel-ebpf status`: one document for each connection, from the exporter's own loop.

In:   a listening socket, what makes the document once there is one
Out:  the document, to whoever connects
Owns: the connections, few and for a short time; nothing is read from them
"""

import socket
import time
from collections.abc import Callable

_MAX_CLIENTS = 4
_PATIENCE_SECONDS = 2.0  # for one that does not read


class StatusServer:
    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.document: Callable[[], bytes] = bytes
        self._clients: list[tuple[socket.socket, memoryview, float]] = []

    def serve(self) -> None:
        """Takes who waits and sends what fits now; never blocks."""
        document: bytes | None = None
        while len(self._clients) < _MAX_CLIENTS:
            try:
                client, _ = self.listener.accept()
            except OSError:  # nobody waits, or who did has left
                break
            client.setblocking(False)
            document = self.document() if document is None else document
            self._clients.append((client, memoryview(document), time.monotonic() + _PATIENCE_SECONDS))
        if self._clients:
            self._clients = [left for client in self._clients if (left := _send(*client)) is not None]

    def close(self) -> None:
        for client, _, _ in self._clients:
            client.close()
        self.listener.close()


def _send(client: socket.socket, left: memoryview, until: float) -> tuple[socket.socket, memoryview, float] | None:
    """What is still to be done for this client; None when it is done with."""
    try:
        left = left[client.send(left) :]
    except BlockingIOError:
        if time.monotonic() < until:
            return client, left, until
        left = left[:0]
    except OSError:  # it has gone
        left = left[:0]
    if left:
        return client, left, until
    client.close()
    return None
