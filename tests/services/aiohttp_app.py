"""An aiohttp server: `python -m tests.services.aiohttp_app PORT [CERTIFICATE KEY]`."""

import ssl
import sys

from aiohttp import web

from tests.services.answers import answer_for
from tests.services.waiting import sleep_at_least


async def handle(request: web.Request) -> web.StreamResponse:
    received = len(await request.read())
    answer = answer_for(request.path)
    await sleep_at_least(answer.delay_ms / 1000)
    headers = {"X-Received-Bytes": str(received)}
    if not answer.is_chunked:
        return web.Response(status=answer.status, body=b"".join(answer.pieces()) or None, headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in answer.pieces():
            await response.write(piece)
    await response.write_eof()
    return response


def make_application() -> web.Application:
    application = web.Application(client_max_size=10_000_000)
    application.router.add_route("*", "/{path:.*}", handle)
    return application


if __name__ == "__main__":
    tls = None
    if sys.argv[2:]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*sys.argv[2:])
    web.run_app(make_application(), host="127.0.0.1", port=int(sys.argv[1]), ssl_context=tls, print=None)
