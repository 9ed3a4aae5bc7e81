"""The services of the shop, started as their owner would: nothing of OpenTelemetry is in them but the names in their environment.

In:   where they shall listen, a folder that nginx's workers can read
Out:  running services
Owns: their processes, and a certificate made for the day
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tests.services.processes import VENV_BIN, environment, running
from tests.services.servers import nginx_command, program
from tools.go_build import build

SHOP = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Addresses:
    """All on 127.0.0.1, side by side."""

    front: int
    front_tls: int
    catalog: int
    cart: int
    orders: int
    payments: int

    @classmethod
    def from_base(cls, base: int) -> "Addresses":
        return cls(*range(base, base + 6))

    @property
    def watched(self) -> str:
        """For OTEL_EBPF_OPEN_PORT."""
        return f"{self.front}-{self.payments}"


@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", str(made.key), "-out", str(made.certificate)], check=True, capture_output=True)
    return made


def commands(at: Addresses, folder: Path, tls: Certificate) -> dict[str, tuple[int, list[str]]]:
    """Service: where it listens, how it is started. Each asks only those before it."""
    go = str(build(SHOP / "orders"))
    pem = [f"-certificate={tls.certificate}"]
    behind = [f"-cart=http://127.0.0.1:{at.cart}", f"-payments=https://localhost:{at.payments}"]
    uvicorn = [str(VENV_BIN / "uvicorn"), "--host=127.0.0.1", f"--port={at.catalog}", "--log-level=warning"]
    names: dict[str, object] = {
        "FOLDER": folder,
        "CERTIFICATE": tls.certificate,
        "KEY": tls.key,
        **{name.upper(): port for name, port in vars(at).items()},
    }
    front = Template((SHOP / "nginx.conf").read_text()).substitute(names)
    return {
        "catalog": (at.catalog, [*uvicorn, "examples.shop.catalog:app"]),
        "cart": (at.cart, [program("node"), str(SHOP / "cart.js"), str(at.cart), str(at.catalog)]),
        "payments": (at.payments, [go, "pay", f"-port={at.payments}", *pem, f"-key={tls.key}"]),
        "orders": (at.orders, [go, "serve", f"-port={at.orders}", *pem, *behind]),
        "nginx": (at.front, nginx_command(folder, front)),
    }


@contextmanager
def open_shop(at: Addresses, folder: Path) -> Iterator[Certificate]:
    """Every service listens."""
    tls = make_certificate(folder)
    with ExitStack() as ends:
        for name, (port, command) in commands(at, folder, tls).items():
            env = environment(OTEL_SERVICE_NAME=name)
            ends.enter_context(running(command, ("127.0.0.1", port), log=folder / f"{name}.log", env=env))
        yield tls
