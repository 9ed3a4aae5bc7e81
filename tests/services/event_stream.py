"""Server-sent events by aiohttp, whose end a test decides: `python -m tests.services.event_stream PORT`."""

import asyncio
import sys

from aiohttp import web

FIRST, LAST = b"data: first\n\n", b"data: last\n\n"
_is_over = web.AppKey("is_over", asyncio.Event)


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(FIRST)
    await request.app[_is_over].wait()
    await response.write(LAST)
    await response.write_eof()
    return response


async def finish(request: web.Request) -> web.Response:
    request.app[_is_over].set()
    return web.Response(status=204)


def make_application() -> web.Application:
    application = web.Application()
    application[_is_over] = asyncio.Event()
    application.router.add_get("/{path:.*}events", events)
    application.router.add_post("/{path:.*}finish", finish)
    return application


if __name__ == "__main__":
    web.run_app(make_application(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
