"""aiohttp's client: `python -m tests.services.clients.aiohttp_client PLAN`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.services.clients.driver import (
    Outcome,
    Send,
    drive,
    in_pieces,
    received_bytes,
    request_body,
    tls_context,
)


async def as_stream(body: bytes) -> AsyncIterator[bytes]:
    for piece in in_pieces(body):
        yield piece


def make_send(plan: dict[str, Any]) -> Send:
    loop = asyncio.new_event_loop()
    base = f"{plan['scheme']}://{plan['host']}:{plan['port']}"

    async def open_session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(force_close=not plan["keep_alive"], limit=1, ssl=tls_context(plan) or True)
        return aiohttp.ClientSession(connector=connector)

    session = loop.run_until_complete(open_session())

    async def exchange(call: dict[str, Any]) -> Outcome:
        body: Any = request_body(call) or None
        if call["request_chunked"]:
            body = as_stream(body)
        async with session.request(
            call["method"], base + call["target"], data=body, headers=call["headers"]
        ) as response:
            size = len(await response.read())
            return response.status, size, received_bytes(response.headers.get("X-Received-Bytes"))

    return lambda call: loop.run_until_complete(exchange(call))


if __name__ == "__main__":
    drive(make_send)
