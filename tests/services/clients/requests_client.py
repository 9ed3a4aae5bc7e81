"""requests: `python -m tests.services.clients.requests_client PLAN`."""

from typing import Any

import requests

from tests.services.clients.driver import (
    Outcome,
    Send,
    drive,
    in_pieces,
    received_bytes,
    request_body,
    tls_context,
)


class TlsAdapter(requests.adapters.HTTPAdapter):
    """Hands its options on to urllib3."""

    def __init__(self, **options: object) -> None:
        self._options = options
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, **self._options)


def make_send(plan: dict[str, Any]) -> Send:
    return make_send_by(plan, TlsAdapter(ssl_context=tls_context(plan)))


def make_send_by(plan: dict[str, Any], adapter: TlsAdapter) -> Send:
    base = f"{plan['scheme']}://{plan['host']}:{plan['port']}"
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", adapter)

    def send(call: dict[str, Any]) -> Outcome:
        body: Any = request_body(call) or None
        if call["request_chunked"]:
            body = in_pieces(body)
        headers = dict(call["headers"])
        if not plan["keep_alive"]:
            headers["Connection"] = "close"
        response = session.request(
            call["method"],
            base + call["target"],
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=30,
            verify=plan["authority"] or True,
        )
        return response.status_code, len(response.content), received_bytes(response.headers.get("X-Received-Bytes"))

    return send


if __name__ == "__main__":
    drive(make_send)
