"""httpx: `python -m tests.services.clients.httpx_client PLAN`."""

from typing import Any

import httpx

from tests.services.clients.driver import (
    Outcome,
    Send,
    drive,
    in_pieces,
    received_bytes,
    request_body,
    tls_context,
)


def make_send(plan: dict[str, Any]) -> Send:
    base = f"{plan['scheme']}://{plan['host']}:{plan['port']}"
    limits = httpx.Limits(max_keepalive_connections=1 if plan["keep_alive"] else 0)
    transport = httpx.HTTPTransport(verify=tls_context(plan) or True, uds=plan["unix_socket"] or None, limits=limits)
    client = httpx.Client(transport=transport, trust_env=False, timeout=30)

    def send(call: dict[str, Any]) -> Outcome:
        body: Any = request_body(call) or None
        if call["request_chunked"]:
            body = in_pieces(body)
        response = client.request(call["method"], base + call["target"], content=body, headers=call["headers"])
        return response.status_code, len(response.content), received_bytes(response.headers.get("X-Received-Bytes"))

    return send


if __name__ == "__main__":
    drive(make_send)
