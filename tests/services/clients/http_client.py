"""http.client of the standard library: `python -m tests.services.clients.http_client PLAN`."""

import http.client
import socket
from typing import Any

from tests.services.clients.driver import (
    Outcome,
    Send,
    drive,
    in_pieces,
    received_bytes,
    request_body,
    tls_context,
)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def make_connection(plan: dict[str, Any]) -> http.client.HTTPConnection:
    if plan["unix_socket"]:
        return UnixConnection(plan["unix_socket"])
    context = tls_context(plan)
    if context is None:
        return http.client.HTTPConnection(plan["host"], plan["port"], timeout=30)
    return http.client.HTTPSConnection(plan["host"], plan["port"], timeout=30, context=context)


def make_send(plan: dict[str, Any]) -> Send:
    connection = make_connection(plan)

    def send(call: dict[str, Any]) -> Outcome:
        body: Any = request_body(call) or None
        headers = dict(call["headers"])
        if call["request_chunked"]:
            body, headers["Transfer-Encoding"] = in_pieces(body), "chunked"
        if not plan["keep_alive"]:
            headers["Connection"] = "close"
        connection.request(call["method"], call["target"], body, headers, encode_chunked=call["request_chunked"])
        response = connection.getresponse()
        size = len(response.read())
        return response.status, size, received_bytes(response.getheader("X-Received-Bytes"))

    return send


if __name__ == "__main__":
    drive(make_send)
