"""How the services of calling_app.py ask the one at CALLS_TO: by which client says CLIENT, by TLS where there is a CERTIFICATE.

In:   a path
Out:  the request; nothing of what is answered
Owns: the connections that stay open

It needs nothing but the client that is used, so that it runs under any interpreter.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import ssl
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLS_TO = int(os.environ.get("CALLS_TO", "0"))
CERTIFICATE, KEY = os.environ.get("CERTIFICATE", ""), os.environ.get("KEY", "")
ASKS = f"{'https' if CERTIFICATE else 'http'}://127.0.0.1:{CALLS_TO}"
_CONNECTIONS = 200


def server_tls() -> ssl.SSLContext | None:
    if not CERTIFICATE:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    return context


def _client_tls() -> ssl.SSLContext | None:
    return ssl._create_unverified_context() if CERTIFICATE else None


def ask_by_http_client(path: str) -> None:
    """A connection for each."""
    connection = http.client.HTTPConnection("127.0.0.1", CALLS_TO, timeout=30)
    if CERTIFICATE:
        connection = http.client.HTTPSConnection("127.0.0.1", CALLS_TO, timeout=30, context=_client_tls())
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()


_of_thread = threading.local()
_of_all: dict[str, Any] = {}


def ask_by_requests(path: str) -> None:
    """A session for each thread."""
    import requests

    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
        _of_thread.session.trust_env = False
    _of_thread.session.get(f"{ASKS}{path}", timeout=30, verify=False)


def ask_by_urllib3(path: str) -> None:
    """One pool for all threads: whose connection it is changes."""
    import urllib3

    if "urllib3" not in _of_all:
        _of_all["urllib3"] = urllib3.PoolManager(maxsize=_CONNECTIONS, cert_reqs="CERT_NONE")
    _of_all["urllib3"].request("GET", f"{ASKS}{path}", timeout=30)


def ask_by_httpx_in_threads(path: str) -> None:
    import httpx

    if "httpx in threads" not in _of_all:
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        _of_all["httpx in threads"] = httpx.Client(timeout=30, verify=False, limits=limits, trust_env=False)
    _of_all["httpx in threads"].get(f"{ASKS}{path}")


async def ask_by_httpx(path: str) -> None:
    import httpx

    if "httpx" not in _of_all:
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        _of_all["httpx"] = httpx.AsyncClient(timeout=30, verify=False, limits=limits, trust_env=False)
    await _of_all["httpx"].get(f"{ASKS}{path}")


async def ask_by_aiohttp(path: str) -> None:
    import aiohttp

    if "aiohttp" not in _of_all:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=False)
        _of_all["aiohttp"] = aiohttp.ClientSession(connector=connector)
    async with _of_all["aiohttp"].get(f"{ASKS}{path}") as response:
        await response.read()


async def ask_by_streams(path: str) -> None:
    """asyncio's own, a connection for each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", CALLS_TO, ssl=_client_tls())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()


IN_THREADS: dict[str, Callable[[str], None]] = {
    "http.client": ask_by_http_client,
    "requests": ask_by_requests,
    "urllib3": ask_by_urllib3,
    "httpx": ask_by_httpx_in_threads,
}
IN_TASKS: dict[str, Callable[[str], Awaitable[None]]] = {
    "httpx": ask_by_httpx,
    "aiohttp": ask_by_aiohttp,
    "streams": ask_by_streams,
}


def ask_in_threads() -> Callable[[str], None]:
    return IN_THREADS.get(os.environ.get("CLIENT", ""), ask_by_requests)


def ask_in_tasks() -> Callable[[str], Awaitable[None]]:
    return IN_TASKS.get(os.environ.get("CLIENT", ""), ask_by_httpx)
