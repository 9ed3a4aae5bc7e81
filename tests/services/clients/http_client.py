"""http.client of the standard library: `python -m tests.services.clients.http_client PLAN`."""

import http.client
import socket
from typing import Any

from tests.services.clients.driver import Outcome, Send, drive, in_pieces, received_bytes, request_body


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def make_send(plan: dict[str, Any]) -> Send:
    connection = (
        UnixConnection(plan["unix_socket"])
        if plan["unix_socket"]
        else http.client.HTTPConnection(plan["host"], plan["port"], timeout=30)
    )

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
