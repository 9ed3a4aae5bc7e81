"""requests on pyOpenSSL: `python -m tests.services.clients.pyopenssl_client PLAN`.

Its TLS is the OpenSSL inside the wheel of `cryptography`.
"""

import ssl
from typing import Any

import urllib3.contrib.pyopenssl

from tests.services.clients.driver import Send, drive
from tests.services.clients.requests_client import TlsAdapter, make_send_by


def make_send(plan: dict[str, Any]) -> Send:
    version = plan["tls_version"].replace(".", "_") or "MAXIMUM_SUPPORTED"
    return make_send_by(plan, TlsAdapter(ssl_maximum_version=ssl.TLSVersion[version]))


if __name__ == "__main__":
    urllib3.contrib.pyopenssl.inject_into_urllib3()
    drive(make_send)
