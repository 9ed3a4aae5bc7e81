"""pycurl of the distribution: `/usr/bin/python3 -m tests.services.clients.pycurl_client PLAN`. Its TLS is GnuTLS."""

import io
from typing import Any

import pycurl

from tests.services.clients.driver import Outcome, Send, drive, in_pieces, received_bytes, request_body


def make_send(plan: dict[str, Any]) -> Send:
    assert "GnuTLS" in pycurl.version
    curl = pycurl.Curl()
    most = pycurl.SSLVERSION_MAX_TLSv1_2 if plan["tls_version"] == "TLSv1.2" else pycurl.SSLVERSION_MAX_TLSv1_3

    def send(call: dict[str, Any]) -> Outcome:
        """The handle keeps its connection over a reset."""
        curl.reset()
        body, got, sent_headers, received = request_body(call), io.BytesIO(), dict(call["headers"]), []
        curl.setopt(pycurl.URL, f"{plan['scheme']}://{plan['host']}:{plan['port']}{call['target']}")
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2 | most)
        if plan["authority"]:
            curl.setopt(pycurl.CAINFO, plan["authority"])
        if plan["unix_socket"]:
            curl.setopt(pycurl.UNIX_SOCKET_PATH, plan["unix_socket"])
        curl.setopt(pycurl.TIMEOUT, 30)
        curl.setopt(pycurl.CUSTOMREQUEST, call["method"])
        curl.setopt(pycurl.NOBODY, call["method"] == "HEAD")
        curl.setopt(pycurl.FORBID_REUSE, not plan["keep_alive"])
        if call["request_chunked"]:
            pieces = in_pieces(body)
            curl.setopt(pycurl.UPLOAD, True)
            curl.setopt(pycurl.READFUNCTION, lambda _: next(pieces, b""))
            sent_headers["Transfer-Encoding"] = "chunked"
        elif body:
            curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in sent_headers.items()])
        curl.setopt(pycurl.HEADERFUNCTION, lambda line: received.append(line.decode("latin-1")))
        curl.setopt(pycurl.WRITEDATA, got)
        curl.perform()
        fields = dict(line.strip().lower().partition(": ")[::2] for line in received)
        return curl.getinfo(pycurl.RESPONSE_CODE), len(got.getvalue()), received_bytes(fields.get("x-received-bytes"))

    return send


if __name__ == "__main__":
    drive(make_send)
