"""Certificate authorities for tests, made by openssl."""

import atexit
import shutil
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass
class Certificates:
    """PEM files: the authority, and one certificate for 127.0.0.1 that serves both ends."""

    authority: str
    certificate: str
    key: str

    def server_context(self) -> ssl.SSLContext:
        """A server that asks its clients for a certificate as well."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_certificates(folder: Path) -> Certificates:
    made = Certificates(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))
    authority_key = str(folder / "ca.key")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    openssl("req", "-x509", *new_key, "-subj", "/CN=test authority", "-keyout", authority_key, "-out", made.authority)
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    signer = ["-CA", made.authority, "-CAkey", authority_key]
    openssl("req", "-x509", *new_key, *names, *signer, "-keyout", made.key, "-out", made.certificate)
    return made


@cache
def session_certificates() -> Certificates:
    """Of all services that the tests start; for 127.0.0.1 and localhost."""
    folder = Path(tempfile.mkdtemp(prefix="otel-ebpf-test-"))
    atexit.register(shutil.rmtree, folder)
    return make_certificates(folder)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
