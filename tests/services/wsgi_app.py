"""A WSGI application: `gunicorn tests.services.wsgi_app:application`."""

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from tests.services.answers import answer_for


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    received = 0
    while piece := environ["wsgi.input"].read(65536):
        received += len(piece)
    answer = answer_for(environ["PATH_INFO"])
    if answer.delay_ms:
        time.sleep(answer.delay_ms / 1000)
    headers = [("Content-Type", "text/plain"), ("X-Received-Bytes", str(received))]
    if answer.has_body and not answer.is_chunked:
        headers.append(("Content-Length", str(answer.size)))
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else answer.pieces()
