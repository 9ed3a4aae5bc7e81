"""The service of calling_app.py by Starlette, for uvicorn: endpoints that are no coroutines, which anyio runs in threads, and
what goes on behind the answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.services.calling_app import noise_task, work, work_in_tasks
from tests.services.calling_clients import ask_in_tasks, ask_in_threads

_noise: set[Any] = set()


def work_in_a_thread(path: str) -> None:
    work(path, ask_in_threads())


async def work_late(path: str) -> None:
    """In the task of the request, which has been answered."""
    await work_in_tasks(path, ask_in_tasks())


class WithNoise:
    """An application, and what goes on as long as it lives."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            _noise.add(asyncio.ensure_future(noise_task(ask_in_tasks())))
        await self._app(scope, receive, send)


def sync(request: Any) -> Response:
    work_in_a_thread(request.url.path)
    return PlainTextResponse("ok")


async def late_sync(request: Any) -> Response:
    return PlainTextResponse("ok", background=BackgroundTask(work_in_a_thread, request.url.path))


async def late_task(request: Any) -> Response:
    return PlainTextResponse("ok", background=BackgroundTask(work_late, request.url.path))


async def others(request: Any) -> Response:
    if request.url.path != "/":
        await work_in_tasks(request.url.path, ask_in_tasks())
    return PlainTextResponse("ok")


app = WithNoise(
    Starlette(
        routes=[
            Route("/in/sync/{name}", sync),
            Route("/in/late-sync/{name}", late_sync),
            Route("/in/late-task/{name}", late_task),
            Route("/{rest:path}", others),
        ]
    )
)
