"""Serves pages that others make, over HTTP: for Prometheus, for health checks.

In:   requests of anybody who reaches the port
Out:  pages, by path
Owns: a listening socket, a thread for it and one for each connection, few and for a short time

The socket is opened while there are rights to it, and served after they were dropped. Of a request only the method, the
path and the Accept header are looked at. Beyond a few connections the oldest one gives way, so that one who holds them
open and says nothing keeps nobody out.
"""

import os
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple

from otel_ebpf.errors import AgentError
from otel_ebpf.setting_values import Listen

MAX_CONNECTIONS = 8
_QUIET_SECONDS = 5.0


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes


MakePage = Callable[[str], Page]  # of the Accept header


class PageServer:
    def __init__(self, where: Listen, setting: str, pages: Mapping[str, MakePage]) -> None:
        """`setting`: the name of the one that says where, for people."""
        self._server = _Server(_listen(where, setting), dict(pages))
        self._thread = threading.Thread(target=self._server.serve_forever, name=f"pages-{where.port}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()
        self._server.close_oldest(0)


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: Mapping[str, MakePage]) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self._open: dict[int, socket.socket] = {}  # the oldest first
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.close_oldest(MAX_CONNECTIONS - 1)
        with self._lock:
            self._open[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(id(request), None)
        super().shutdown_request(request)

    def close_oldest(self, left: int) -> None:
        """Its thread finds the connection ended, and ends."""
        with self._lock:
            while len(self._open) > left:
                request = self._open.pop(next(iter(self._open)))
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it has ended already

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone, which is no news; a page that cannot be made has answered 500."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _QUIET_SECONDS
    server_version, sys_version = "otel-ebpf", ""

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        page = _NOT_FOUND if make is None else make(self.headers.get("Accept", ""))
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """The agent's output tells of services, not of who looked."""


_NOT_FOUND = Page(404, "text/plain; charset=utf-8", b"not here\n")


def _listen(where: Listen, setting: str) -> socket.socket:
    try:
        if where.host:
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            return socket.create_server((where.host, where.port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", where.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", where.port))
    except OSError as error:
        shown = f"{where.host or 'any address'}, port {where.port}"
        raise AgentError(
            f"cannot listen at {shown}: {os.strerror(error.errno) if error.errno else error}",
            f"Set {setting} to another.",
        ) from error
