"""The real servers that tests watch, as a table: name, how to start it, what it cannot do.

In:   a name and a folder for its files
Out:  a running server and where it listens
Owns: nothing; processes.py ends what was started
"""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.services import nginx
from tests.services.certificates import session_certificates
from tests.services.plan import SIZES, Call, all_calls, file_calls
from tests.services.processes import CHECKOUT, VENV_BIN, environment, free_port, running
from tools.distribution import SEARCH_PATH
from tools.go_build import PLAIN, Kind, build

GO_HTTP = CHECKOUT / "tests" / "services" / "go_http"
SERVICES = CHECKOUT / "tests" / "services"
# As nginx's; of 2 to 5 s by default, which a client may be held up for between two requests. node_service.js has the same.
KEEP_ALIVE_S = 75


def program(name: str) -> str:
    """A missing component fails the test that wants it."""
    found = shutil.which(name, path=SEARCH_PATH)
    assert found, f"{name} is not installed: make setup-test installs it"
    return found


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    host: str
    port: int
    unix_socket: str
    log: Path
    authority: str = ""  # a file: who signed its certificate; empty: it speaks plain text

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def bracketed_host(self) -> str:
        """As it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def scheme(self) -> str:
        return "https" if self.authority else "http"


def nginx_command(folder: Path, text: str) -> list[str]:
    (folder / "nginx.conf").write_text(text)
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def answering_nginx(port: int, folder: Path) -> list[str]:
    return nginx_command(folder, nginx.configuration(folder, [f"127.0.0.1:{port}"], nginx.answers()))


@contextmanager
def counting_nginx(folder: Path, *, workers: int = 1) -> Iterator[tuple[Running, Path]]:
    """nginx that logs each request in one line: under a load generator that stops mid-request, its log is the truth."""
    port = free_port()
    listen = [f"127.0.0.1:{port}"]
    with public_folder() as public:
        log = public / "access.log"
        text = nginx.configuration(public, listen, nginx.answers(), workers=workers, access_log=f"{log} line")
        with serving_elsewhere(nginx_command(public, text), folder, "127.0.0.1", port) as server:
            yield server, log


@contextmanager
def plain_nginx(folder: Path) -> Iterator[Running]:
    """One answer of 1,000 bytes for everything: so little work of its own that any cost beside it shows."""
    port = free_port()
    with public_folder() as public:
        locations = f'    location / {{ return 200 "{"x" * 1000}"; }}'
        text = nginx.configuration(public, [f"127.0.0.1:{port}"], locations)
        with serving_elsewhere(nginx_command(public, text), folder, "127.0.0.1", port) as server:
            yield server


@contextmanager
def storing_nginx(folder: Path) -> Iterator[Running]:
    """Keeps what is PUT as files, and sends them by sendfile."""
    port = free_port()
    with public_folder() as public:
        root = public / "files"
        root.mkdir()
        root.chmod(0o777)  # nginx's workers write to it
        text = nginx.configuration(public, [f"127.0.0.1:{port}"], nginx.store(root))
        with serving_elsewhere(nginx_command(public, text), folder, "127.0.0.1", port) as server:
            yield server


@contextmanager
def event_stream(folder: Path) -> Iterator[Running]:
    """GET /events gives a first event, and ends with another one once somebody has sent POST /finish."""
    port = free_port()
    command = [str(VENV_BIN / "python"), "-m", "tests.services.event_stream", str(port)]
    with serving_elsewhere(command, folder, "127.0.0.1", port) as server:
        yield server


@contextmanager
def odd_server(folder: Path) -> Iterator[Running]:
    """See odd_server.py."""
    port = free_port()
    command = [str(VENV_BIN / "python"), "-m", "tests.services.odd_server", str(port)]
    with serving_elsewhere(command, folder, "127.0.0.1", port) as server:
        yield server


@contextmanager
def public_folder() -> Iterator[Path]:
    """For what nginx's unprivileged workers read and write: pytest's own folders are closed to them."""
    with tempfile.TemporaryDirectory(prefix="otel-ebpf-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def write_files(folder: Path) -> Path:
    """SIZE.bin for each size of the plan."""
    root = folder / "files"
    root.mkdir()
    for size in SIZES:
        (root / f"{size}.bin").write_bytes(b"x" * size)
    return root


def tls_nginx(port: int, folder: Path) -> list[str]:
    return many_tls_nginx(folder, [("127.0.0.1", port)])


def many_tls_nginx(folder: Path, addresses: list[tuple[str, int]]) -> list[str]:
    listen = [f"{host}:{port}" for host, port in addresses]
    text = nginx.configuration(folder, listen, nginx.answers(), certificates=session_certificates())
    return nginx_command(folder, text)


@contextmanager
def nginx_of_many_addresses(folder: Path, addresses: list[tuple[str, int]]) -> Iterator[Running]:
    """One that speaks TLS on all of them."""
    host, port = addresses[0]
    with public_folder() as public, serving_elsewhere(many_tls_nginx(public, addresses), folder, host, port) as made:
        yield replace(made, authority=session_certificates().authority)


def file_nginx(port: int, folder: Path) -> list[str]:
    return nginx_command(folder, nginx.configuration(folder, [f"127.0.0.1:{port}"], nginx.files(write_files(folder))))


def file_python(port: int, folder: Path) -> list[str]:
    root = str(write_files(folder))
    return ["/usr/bin/python3", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", root]


def gunicorn(*options: str, tls: bool = False) -> Callable[[int, Path], list[str]]:
    return lambda port, _: [
        str(VENV_BIN / "gunicorn"),
        "--bind",
        f"127.0.0.1:{port}",
        "--workers=2",
        f"--keep-alive={KEEP_ALIVE_S}",
        *options,
        *(certificate_options("--certfile", "--keyfile") if tls else ()),
        "tests.services.wsgi_app:application",
    ]


def uvicorn(*options: str, tls: bool = False) -> Callable[[int, Path], list[str]]:
    return lambda port, _: [
        str(VENV_BIN / "uvicorn"),
        "--host=127.0.0.1",
        f"--port={port}",
        "--log-level=warning",
        "--no-access-log",
        f"--timeout-keep-alive={KEEP_ALIVE_S}",
        *options,
        *(certificate_options("--ssl-certfile", "--ssl-keyfile") if tls else ()),
        "tests.services.asgi_app:application",
    ]


def aiohttp(*, tls: bool = False) -> Callable[[int, Path], list[str]]:
    start = [str(VENV_BIN / "python"), "-m", "tests.services.aiohttp_app"]
    return lambda port, _: [*start, str(port), *(certificate_files() if tls else ())]


def node(*, tls: bool = False) -> Callable[[int, Path], list[str]]:
    service = str(SERVICES / "node_service.js")
    return lambda port, _: [program("node"), service, str(port), *(certificate_files() if tls else ())]


def go_server(network: str, address: str, *certificate: str, kind: Kind = PLAIN) -> list[str]:
    return [str(build(GO_HTTP, kind)), "serve", network, address, *certificate]


def certificate_files() -> list[str]:
    made = session_certificates()
    return [made.certificate, made.key]


def certificate_options(*names: str) -> list[str]:
    return [f"{name}={file}" for name, file in zip(names, certificate_files(), strict=True)]


@dataclass(frozen=True)
class Server:
    command: Callable[[int, Path], list[str]]
    serves: str = "answers"  # or files: GET and HEAD of /SIZE.bin
    keeps_alive: bool = True
    reads_bodies: bool = True  # false: answers without having read what the client sends
    speaks_tls: bool = False
    wants_bodies_first: bool = False  # it closes on a request with a body behind a large response, now and then


SERVERS = {
    "nginx": Server(answering_nginx, reads_bodies=False),
    "nginx-files": Server(file_nginx, serves="files"),
    "http.server": Server(file_python, serves="files", keeps_alive=False),
    "gunicorn-sync": Server(gunicorn("--worker-class=sync"), keeps_alive=False),
    "gunicorn-gthread": Server(gunicorn("--worker-class=gthread", "--threads=4")),
    "uvicorn-uvloop-httptools": Server(uvicorn("--loop=uvloop", "--http=httptools")),
    "uvicorn-asyncio-h11": Server(uvicorn("--loop=asyncio", "--http=h11")),
    "aiohttp": Server(aiohttp()),
    "node": Server(node()),
    "go": Server(lambda port, _: go_server("tcp", f"127.0.0.1:{port}")),
    "go-tls": Server(lambda port, _: go_server("tcp", f"127.0.0.1:{port}", *certificate_files()), speaks_tls=True),
    "nginx-tls": Server(tls_nginx, reads_bodies=False, speaks_tls=True),
    "gunicorn-sync-tls": Server(gunicorn("--worker-class=sync", tls=True), keeps_alive=False, speaks_tls=True),
    "gunicorn-gthread-tls": Server(gunicorn("--worker-class=gthread", "--threads=4", tls=True), speaks_tls=True),
    "gunicorn-gevent-tls": Server(gunicorn("--worker-class=gevent", tls=True), speaks_tls=True),
    "uvicorn-uvloop-tls": Server(uvicorn("--loop=uvloop", "--http=httptools", tls=True), speaks_tls=True),
    "uvicorn-asyncio-tls": Server(uvicorn("--loop=asyncio", "--http=h11", tls=True), speaks_tls=True),
    "aiohttp-tls": Server(aiohttp(tls=True), speaks_tls=True),
    "node-tls": Server(node(tls=True), speaks_tls=True, wants_bodies_first=True),
}
PLAIN_SERVERS = [name for name, server in SERVERS.items() if not server.speaks_tls]
TLS_SERVERS = [name for name, server in SERVERS.items() if server.speaks_tls]


@contextmanager
def serving(name: str, folder: Path, *, port: int = 0, **env: str) -> Iterator[Running]:
    """One server of the table on 127.0.0.1; `folder` keeps its log."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    log = folder / "server.log"
    with public_folder() as public:
        command = SERVERS[name].command(port, public)
        with running(command, ("127.0.0.1", port), log=log, env=environment(**env)) as process:
            authority = session_certificates().authority if SERVERS[name].speaks_tls else ""
            yield Running(process, "127.0.0.1", port, "", log, authority)


def calls_for(server: str, prefix: str) -> list[Call]:
    calls = file_calls(prefix) if SERVERS[server].serves == "files" else all_calls(prefix)
    if SERVERS[server].wants_bodies_first:
        calls.sort(key=lambda call: (call.request_body_bytes == 0, call.response_body_bytes))
    return calls


@contextmanager
def serving_elsewhere(
    command: list[str], folder: Path, host: str, port: int, unix_socket: str = "", authority: str = "", **env: str
) -> Iterator[Running]:
    """Any command, on an address of IPv6 or on a Unix socket."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with running(command, unix_socket or (host, port), log=log, env=environment(**env)) as process:
        yield Running(process, host, port, unix_socket, log, authority)


@contextmanager
def proxying(folder: Path, behind: Running, *, keep_alive: bool, workers: int = 1) -> Iterator[Running]:
    """nginx in front of another server, over TCP or over that server's Unix socket."""
    address = f"unix:{behind.unix_socket}" if behind.unix_socket else f"{behind.bracketed_host}:{behind.port}"
    upstream, locations = nginx.proxy(address, keep_alive=keep_alive)
    port = free_port()
    with public_folder() as public:
        text = nginx.configuration(public, [f"127.0.0.1:{port}"], locations, workers=workers, upstream=upstream)
        with serving_elsewhere(nginx_command(public, text), folder, "127.0.0.1", port) as process:
            yield process


@contextmanager
def go_serving(kind: str, folder: Path) -> Iterator[Running]:
    """The Go server on `ipv4`, `ipv6` or a `unix` socket."""
    if kind == "unix":
        with public_folder() as public:
            path = str(public / "socket")
            with serving_elsewhere(go_server("unix", path), folder, "localhost", 80, path) as server:
                Path(path).chmod(0o777)  # nginx's workers connect to it
                yield server
        return
    host = "::1" if kind == "ipv6" else "127.0.0.1"
    port = free_port(socket.AF_INET6 if kind == "ipv6" else socket.AF_INET)
    address = f"[{host}]:{port}" if kind == "ipv6" else f"{host}:{port}"
    with serving_elsewhere(go_server("tcp", address), folder, host, port) as server:
        yield server


@contextmanager
def go_tls_serving(folder: Path, kind: Kind, **env: str) -> Iterator[Running]:
    port = free_port()
    command = go_server("tcp", f"127.0.0.1:{port}", *certificate_files(), kind=kind)
    authority = session_certificates().authority
    with serving_elsewhere(command, folder, "127.0.0.1", port, authority=authority, **env) as server:
        yield server
