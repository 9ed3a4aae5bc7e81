"""Services whose requests cause others: GET /in/STYLE/NAME asks the service at CALLS_TO for /out/STYLE/NAME/N.

`asgi` for uvicorn and hypercorn, `wsgi` for gunicorn; `python calling_app.py aiohttp PORT`, `streams PORT`, `http.server
PORT`, or `called PORT` for what they ask; the others are in calling_frameworks.py and calling_trio.py. Each sends
requests that nobody caused besides, /noise/N, as long as it runs. It needs nothing but the frameworks, so that it runs
under any interpreter.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.services.calling_clients import ask_by_http_client, ask_in_tasks, ask_in_threads, server_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOISE_SECONDS = 0.02


def pause() -> float:
    return random.random() / 50


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

    if style == "gather":
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
    else:
        await call(0)
        await call(1)


# What each style sends.
CALLS = {
    "plain": 2,
    "sequence": 2,
    "gather": 3,
    "nested": 2,
    "thread": 1,
    "executor": 1,
    "background": 1,
    "default-pool": 1,
    "churn": 1,
    "after": 1,
    "worker": 1,
    "job": 1,
    "fork": 2,
    "sync": 2,
    "late-sync": 2,
    "late-task": 2,
}


async def noise_task(ask: Callable[[str], Any]) -> None:
    for number in count():
        await asyncio.sleep(NOISE_SECONDS)
        await ask(f"/noise/{os.getpid()}/{number}")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        _left.add(asyncio.ensure_future(noise_task(ask_in_tasks())))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    if scope["path"] != "/":
        await work_in_tasks(scope["path"], ask_in_tasks())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


if "gunicorn" in sys.modules:  # each worker imports this
    start_noise()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/":
        work(environ["PATH_INFO"], ask_in_threads())
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def serve_by_aiohttp(port: int) -> None:
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        if request.path != "/":
            await work_in_tasks(request.path, ask_in_tasks())
        return web.Response(text="ok")

    async def start() -> web.Application:
        app = web.Application()
        app.router.add_get("/{rest:.*}", handle)
        _left.add(asyncio.ensure_future(noise_task(ask_in_tasks())))
        return app

    use_loop()
    web.run_app(start(), host="127.0.0.1", port=port, print=None, shutdown_timeout=0.1, ssl_context=server_tls())


async def serve_by_streams(port: int) -> None:
    """asyncio's own: a task for each connection, which reads one request after the other."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ", 2)[1].decode()
            if path != "/":
                await work_in_tasks(path, ask_in_tasks())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()

    async def handle_until_it_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        _left.add(task)  # asyncio itself keeps no reference before Python 3.12
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await handle(reader, writer)
        writer.close()
        _left.discard(task)

    _left.add(asyncio.ensure_future(noise_task(ask_in_tasks())))
    server = await asyncio.start_server(handle_until_it_ends, "127.0.0.1", port, ssl=server_tls())
    await server.serve_forever()


def use_loop() -> None:
    if os.environ.get("LOOP") == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece: the second of two would wait for the client's acknowledgement

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/in/"):
            work(self.path, ask_in_threads())
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def serve_by_threads(port: int) -> None:
    server = Server(("127.0.0.1", port), Handler)
    tls = server_tls()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "aiohttp":
        serve_by_aiohttp(port)
    elif kind == "streams":
        use_loop()
        asyncio.run(serve_by_streams(port))
    else:
        if kind == "http.server":
            start_noise()
        serve_by_threads(port)


if __name__ == "__main__":
    main()
