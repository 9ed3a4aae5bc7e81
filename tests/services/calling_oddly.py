"""A service of calling_app.py that does what misleads whoever guesses which request caused a call: `calling_oddly.py PORT`.

On asyncio's streams, so one task reads one request of a connection after the other, and with what Python itself brings.
`asgi` is the same for uvicorn, which has a task for each. There GET /hold makes the workers and stays open, GET /held waits
until it is, GET /let-go ends it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
from contextlib import suppress
from typing import Any

from tests.services.calling_app import noise_task, pause, work_in_tasks
from tests.services.calling_clients import ask_by_http_client, ask_by_streams

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TASKS_OF_A_REQUEST = int(os.environ.get("TASKS_OF_A_REQUEST", "300"))
_left: set[Any] = set()
_jobs: Any = None


async def work_on_jobs() -> None:
    while True:
        path, is_done = await _jobs.get()
        await ask_by_streams(path)
        is_done.set_result(None)


async def give_to_worker(path: str) -> None:
    """One worker for all, made by the first request that needs one: it runs in that one's context."""
    global _jobs
    if _jobs is None:
        _jobs = asyncio.Queue()
        _left.add(asyncio.ensure_future(work_on_jobs()))
    is_done = asyncio.get_running_loop().create_future()
    await _jobs.put((path, is_done))
    await is_done


_blocking_jobs: Any = queue.Queue()  # None: it is to end
_pool_works = False


def work_on_blocking_jobs() -> None:
    while (job := _blocking_jobs.get()) is not None:
        path, tell = job
        ask_by_http_client(path)
        tell()


async def give_to_pool(path: str) -> None:
    """The same with a job that never ends, in the loop's own pool."""
    global _pool_works
    loop = asyncio.get_running_loop()
    if not _pool_works:
        _pool_works = True
        _left.add(loop.run_in_executor(None, work_on_blocking_jobs))
    is_done = loop.create_future()
    _blocking_jobs.put((path, lambda: loop.call_soon_threadsafe(is_done.set_result, None)))
    await is_done


def call_in_a_copy(path: str) -> None:
    """Of this process, which ends with it."""
    child = os.fork()
    if not child:
        try:
            ask_by_http_client(path)
        finally:
            os._exit(0)
    _left.add(asyncio.ensure_future(wait_for(child)))


async def wait_for(child: int) -> None:
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        await asyncio.sleep(0.01)


async def nothing() -> None:
    await asyncio.sleep(0)


async def work(path: str) -> None:
    _, _, kind, name = path.split("/")
    if kind == "worker":
        await give_to_worker(f"/out/worker/{name}/0")
    elif kind == "job":
        await give_to_pool(f"/out/job/{name}/0")
    elif kind == "fork":
        call_in_a_copy(f"/out/fork/{name}/0")
        await asyncio.sleep(pause())
        await ask_by_streams(f"/out/fork/{name}/1")
    elif kind == "churn":
        await asyncio.gather(*(asyncio.ensure_future(nothing()) for _ in range(TASKS_OF_A_REQUEST)))
        await ask_by_streams(f"/out/churn/{name}/0")
    elif kind == "default-pool":
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, ask_by_http_client, f"/out/default-pool/{name}/0")
    else:
        await work_in_tasks(path, ask_by_streams)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        if path.startswith("/in/after/"):
            writer.write(ANSWER)
            # The client goes on meanwhile, on this connection.
            await asyncio.sleep(pause())
            await ask_by_streams(f"{path.replace('/in/', '/out/')}/0")
            continue
        if path != "/":
            await work(path)
        writer.write(ANSWER)


async def handle_until_it_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.current_task()
    _left.add(task)  # asyncio itself keeps no reference before Python 3.12
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await handle(reader, writer)
    writer.close()
    _left.discard(task)


async def hold(path: str) -> None:
    held, let_go = _left_open.setdefault("held", asyncio.Event()), _left_open.setdefault("let-go", asyncio.Event())
    if path == "/hold":
        await give_to_worker("/noise/worker")
        await give_to_pool("/noise/job")
        held.set()
        await let_go.wait()
    elif path == "/held":
        await held.wait()
    else:
        let_go.set()


_left_open: dict[str, asyncio.Event] = {}


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        _left.add(asyncio.ensure_future(noise_task(ask_by_streams)))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        _blocking_jobs.put(None)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"].startswith("/in/"):
        await work(scope["path"])
    elif scope["path"] != "/":
        await hold(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def serve(port: int) -> None:
    _left.add(asyncio.ensure_future(noise_task(ask_by_streams)))
    server = await asyncio.start_server(handle_until_it_ends, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
