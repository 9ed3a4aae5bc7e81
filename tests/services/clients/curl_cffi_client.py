"""curl_cffi: `python -m tests.services.clients.curl_cffi_client PLAN`. Its wheel holds libcurl with BoringSSL."""

from typing import Any

from curl_cffi import Curl, CurlOpt
from curl_cffi.requests import Session

from tests.services.clients.driver import Outcome, Send, drive, in_pieces, received_bytes, request_body

SSLVERSION_MAX_TLSV1_2, SSLVERSION_MAX_TLSV1_3 = 6 << 16, 7 << 16  # curl/curl.h


def make_send(plan: dict[str, Any]) -> Send:
    assert b"BoringSSL" in Curl().version()
    base = f"{plan['scheme']}://{plan['host']}:{plan['port']}"
    most = SSLVERSION_MAX_TLSV1_2 if plan["tls_version"] == "TLSv1.2" else SSLVERSION_MAX_TLSV1_3
    options = {CurlOpt.SSLVERSION: most, CurlOpt.FORBID_REUSE: int(not plan["keep_alive"])}
    if plan["unix_socket"]:
        options[CurlOpt.UNIX_SOCKET_PATH] = plan["unix_socket"]
    session = Session(http_version="v1", verify=plan["authority"] or True, curl_options=options, trust_env=False)

    def send(call: dict[str, Any]) -> Outcome:
        body = request_body(call)
        response = session.request(
            call["method"],
            base + call["target"],
            content=in_pieces(body) if call["request_chunked"] else body or None,
            headers=dict(call["headers"]),
            allow_redirects=False,
            accept_encoding=None,
            timeout=30,
        )
        return response.status_code, len(response.content), received_bytes(response.headers.get("X-Received-Bytes"))

    return send


if __name__ == "__main__":
    drive(make_send)
