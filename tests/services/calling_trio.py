"""The services of calling_app.py on trio: `asgi` for hypercorn, `python calling_trio.py PORT` on trio's own streams."""

from __future__ import annotations

import sys
from functools import partial
from itertools import count
from os import getpid
from typing import Any

import trio

from tests.services.calling_app import NOISE_SECONDS, pause
from tests.services.calling_clients import ask_by_http_client, ask_by_httpx, server_tls

_BUFFER_BYTES = 65536
_behind: Any = None  # what outlives requests


async def work_in_trio(path: str) -> None:
    _, _, style, name = path.split("/")
    await trio.sleep(pause())

    async def call(number: int) -> None:
        await trio.sleep(pause())
        await ask_by_httpx(f"/out/{style}/{name}/{number}")

    async def late() -> None:
        await trio.sleep(0.05)
        await call(0)

    if style == "sequence":
        await call(0)
        await call(1)
    elif style == "gather":
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(call, number)
    elif style == "thread":
        await trio.to_thread.run_sync(ask_by_http_client, f"/out/{style}/{name}/0")
    elif style == "background":
        _behind.start_soon(late)


async def make_noise() -> None:
    for number in count():
        await trio.sleep(NOISE_SECONDS)
        await ask_by_httpx(f"/noise/{getpid()}/{number}")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    global _behind
    if scope["type"] == "lifespan":
        await receive()
        async with trio.open_nursery() as _behind:
            _behind.start_soon(make_noise)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            _behind.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/":
        await work_in_trio(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def handle(stream: Any) -> None:
    received = b""
    try:
        while True:
            while b"\r\n\r\n" not in received:
                more = await stream.receive_some(_BUFFER_BYTES)
                if not more:
                    await stream.aclose()
                    return
                received += more
            head, _, received = received.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path != "/":
                await work_in_trio(path)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except trio.BrokenResourceError:
        return  # the client has gone


async def serve(port: int) -> None:
    global _behind
    tls = server_tls()
    async with trio.open_nursery() as _behind:
        _behind.start_soon(make_noise)
        if tls is None:
            await trio.serve_tcp(handle, port, host="127.0.0.1")
        else:
            await trio.serve_ssl_over_tcp(handle, port, tls, host="127.0.0.1", https_compatible=True)


if __name__ == "__main__":
    trio.run(partial(serve, int(sys.argv[1])))
