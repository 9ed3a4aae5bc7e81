"""An ASGI application: `uvicorn tests.services.asgi_app:application`."""

from typing import Any

from tests.services.answers import answer_for
from tests.services.waiting import sleep_at_least


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    received = 0
    while True:
        message = await receive()
        received += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    answer = answer_for(scope["path"])
    await sleep_at_least(answer.delay_ms / 1000)
    headers = [(b"content-type", b"text/plain"), (b"x-received-bytes", str(received).encode())]
    if answer.has_body and not answer.is_chunked:
        headers.append((b"content-length", str(answer.size).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if scope["method"] != "HEAD":
        for piece in answer.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
