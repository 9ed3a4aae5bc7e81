"""requests: `python -m tests.services.clients.requests_client PLAN`."""

from typing import Any

import requests

from tests.services.clients.driver import Outcome, Send, drive, in_pieces, received_bytes, request_body


def make_send(plan: dict[str, Any]) -> Send:
    base = f"http://{plan['host']}:{plan['port']}"
    session = requests.Session()
    session.trust_env = False

    def send(call: dict[str, Any]) -> Outcome:
        body: Any = request_body(call) or None
        if call["request_chunked"]:
            body = in_pieces(body)
        headers = dict(call["headers"])
        if not plan["keep_alive"]:
            headers["Connection"] = "close"
        response = session.request(
            call["method"], base + call["target"], data=body, headers=headers, allow_redirects=False, timeout=30
        )
        return response.status_code, len(response.content), received_bytes(response.headers.get("X-Received-Bytes"))

    return send


if __name__ == "__main__":
    drive(make_send)
