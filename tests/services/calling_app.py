"""Services whose requests cause others: GET /in/STYLE/NAME asks the service at CALLS_TO for /out/STYLE/NAME/N.

`asgi` for uvicorn, `wsgi` for gunicorn; `python calling_app.py aiohttp PORT`, `http.server PORT`, or `called PORT` for
what they ask. Each sends requests that nobody caused besides, /noise/N, as long as it runs. It needs nothing but the
frameworks, so that it runs under any interpreter.
"""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import os
import random
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CALLS_TO = int(os.environ.get("CALLS_TO", "0"))
CERTIFICATE, KEY = os.environ.get("CERTIFICATE", ""), os.environ.get("KEY", "")  # with them it asks by TLS
ASKS = f"{'https' if CERTIFICATE else 'http'}://127.0.0.1:{CALLS_TO}"
NOISE_SECONDS = 0.02


def pause() -> float:
    return random.random() / 50


def ask_by_http_client(path: str) -> None:
    if CERTIFICATE:
        context = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", CALLS_TO, timeout=30, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", CALLS_TO, timeout=30)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()


_of_thread = threading.local()


def ask_by_requests(path: str) -> None:
    """On a connection that stays open."""
    import requests

    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
        _of_thread.session.trust_env = False
    _of_thread.session.get(f"{ASKS}{path}", timeout=30, verify=False)


def make_noise(ask: Callable[[str], Any]) -> None:
    for number in count():
        time.sleep(NOISE_SECONDS)
        ask(f"/noise/{os.getpid()}/{number}")


def start_noise() -> None:
    threading.Thread(target=make_noise, args=(ask_by_http_client,), daemon=True).start()


def work(path: str, ask: Callable[[str], Any]) -> None:
    """What a request causes where one thread works on it."""
    _, _, style, name = path.split("/")
    time.sleep(pause())
    for number in range(2):
        ask(f"/out/{style}/{name}/{number}")
        time.sleep(pause())


_executor = ThreadPoolExecutor(8)
_left: set[Any] = set()


async def work_in_tasks(path: str, ask: Callable[[str], Any]) -> None:
    """The same where many are worked on in one thread."""
    _, _, style, name = path.split("/")
    await asyncio.sleep(pause())

    async def call(number: int) -> None:
        await asyncio.sleep(pause())
        await ask(f"/out/{style}/{name}/{number}")

    async def outer() -> None:
        await asyncio.ensure_future(call(0))
        await asyncio.wait_for(call(1), 30)

    async def late() -> None:
        await asyncio.sleep(0.05)
        await call(0)

    if style == "sequence":
        await call(0)
        await call(1)
    elif style == "gather":
        await asyncio.gather(*map(call, range(3)))
    elif style == "nested":
        await asyncio.ensure_future(outer())
    elif style == "thread":
        # What asyncio.to_thread does; Python 3.8 has none.
        run = contextvars.copy_context().run
        await asyncio.get_running_loop().run_in_executor(_executor, run, ask_by_http_client, f"/out/{style}/{name}/0")
    elif style == "executor":
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(_executor, ask_by_http_client, f"/out/{style}/{name}/0")
    elif style == "background":
        task = asyncio.ensure_future(late())
        _left.add(task)
        task.add_done_callback(_left.discard)


# What each style sends.
CALLS = {"sequence": 2, "gather": 3, "nested": 2, "thread": 1, "executor": 1, "background": 1, "plain": 2}


async def noise_task(ask: Callable[[str], Any]) -> None:
    for number in count():
        await asyncio.sleep(NOISE_SECONDS)
        await ask(f"/noise/{os.getpid()}/{number}")


_httpx: Any = None


async def ask_by_httpx(path: str) -> None:
    global _httpx
    if _httpx is None:
        import httpx

        _httpx = httpx.AsyncClient(timeout=30, verify=False, limits=httpx.Limits(max_connections=200))
    await _httpx.get(f"{ASKS}{path}")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        _left.add(asyncio.ensure_future(noise_task(ask_by_httpx)))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    if scope["path"] != "/":
        await work_in_tasks(scope["path"], ask_by_httpx)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


if "gunicorn" in sys.modules:  # each worker imports this
    start_noise()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/":
        work(environ["PATH_INFO"], ask_by_requests)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def serve_by_aiohttp(port: int) -> None:
    from aiohttp import ClientSession, TCPConnector, web

    async def start() -> web.Application:
        session = ClientSession(connector=TCPConnector(limit=200, ssl=False))

        async def ask(path: str) -> None:
            async with session.get(f"{ASKS}{path}") as response:
                await response.read()

        async def handle(request: web.Request) -> web.Response:
            if request.path != "/":
                await work_in_tasks(request.path, ask)
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_get("/{rest:.*}", handle)
        _left.add(asyncio.ensure_future(noise_task(ask)))
        return app

    if os.environ.get("LOOP") == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(start(), host="127.0.0.1", port=port, print=None, shutdown_timeout=0.1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/in/"):
            work(self.path, ask_by_requests)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "aiohttp":
        serve_by_aiohttp(port)
        return
    if kind == "http.server":
        start_noise()
    server = Server(("127.0.0.1", port), Handler)
    if CERTIFICATE:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
