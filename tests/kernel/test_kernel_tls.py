"""TLS that the kernel encrypts: nginx hands it whole files, by SSL_sendfile. Where the kernel cannot, OpenSSL does it itself."""

import os
import ssl
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from tests.kernel.tls_wire import TlsWatched
from tests.services.processes import free_port, running
from tests.services.servers import program

pytestmark = pytest.mark.kernel

FILE_BYTES = 1_000_000
STATISTICS = Path("/proc/net/tls_stat")  # only with the kernel's module


def encrypted_by_the_kernel() -> int:
    """Connections whose sending the kernel has taken over, since it started."""
    lines = STATISTICS.read_text().splitlines() if STATISTICS.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("TlsTxSw"))


def configuration(folder: Path, port: int, certificate: Path, key: Path) -> str:
    return f"""
master_process off; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  sendfile on;
  server {{
    listen 127.0.0.1:{port} ssl; root {folder};
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_conf_command Options KTLS;
  }}
}}"""


def test_a_file_that_the_kernel_encrypts_is_of_its_size(
    tls_watched: TlsWatched, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    port, before = free_port(), encrypted_by_the_kernel()
    (tmp_path / "file").write_bytes(os.urandom(FILE_BYTES))
    (tmp_path / "nginx.conf").write_text(configuration(tmp_path, port, *certificate))
    command = [program("nginx"), "-p", str(tmp_path), "-e", "error.log", "-c", "nginx.conf"]
    tls_watched.unwatch(os.getpid())
    with running(command, ("127.0.0.1", port), log=tmp_path / "log") as nginx:
        tls_watched.look(nginx.pid)
        tls_watched.watch(nginx.pid)
        connection = HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=30)
        for number in range(3):
            connection.request("GET", f"/file?{number}")
            assert FILE_BYTES == len(connection.getresponse().read())
        done = tls_watched.until(lambda done: len(served(done)) >= 3)
        connection.close()
    tls_watched.unwatch(nginx.pid)
    tls_watched.tls.forget(nginx.pid)
    tls_watched.watch(os.getpid())

    assert STATISTICS.exists() == (encrypted_by_the_kernel() > before)
    assert [(b"/file", 200, FILE_BYTES, b"https", Outcome.COMPLETE)] * 3 == [
        (one.target.partition(b"?")[0], one.status, one.response_body_bytes, one.scheme, one.outcome)
        for one in served(done)
    ]


def served(done: list[Exchange]) -> list[Exchange]:
    return [one for one in done if one.role is Role.SERVER]
