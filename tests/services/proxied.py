"""Asks nginx for what it hands on, in each of the ways in which it asks for upstream connections, many at once.

In:   the servers behind it, one that speaks plain text and one that speaks TLS
Out:  nginx, running; of each request that it has to send, the one that causes it
Owns: nginx; a server that hangs up on whoever asks it
"""

import http.client
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services import nginx
from tests.services.certificates import session_certificates
from tests.services.processes import free_port
from tests.services.servers import Running, nginx_command, program, public_folder, serving_elsewhere

LATEST_MS = 30  # that an answer takes
PIECES, PIECE = 5, b"x" * 2000  # of what is sent
_PIECE_PAUSE_S = 0.002
# What a location says besides, and the upstream.
_WAYS = {
    "kept": ("kept", ""),
    "fresh": ("fresh", ""),
    "retried": ("dying", "proxy_next_upstream error timeout;"),
    "delayed": ("kept", "limit_req zone=slow burst=10000;"),
    "allowed": ("kept", "auth_request /allow;"),
    "copied": ("kept", "mirror /copy;"),
    "pieces": ("kept", ""),
    "streamed": ("kept", "proxy_request_buffering off;"),
}
_KEPT_ALIVE = 'proxy_http_version 1.1; proxy_set_header Connection "";'  # where the upstream keeps any
WAYS = tuple(_WAYS)
_WITH_BODIES = ("pieces", "streamed")
_MORE_CALLS = {"allowed": "allow", "copied": "copy"}  # subrequests that go to a server of their own


@dataclass(frozen=True)
class Proxy:
    process: Running
    ports: dict[str, int]  # plain, tls, http2
    hung_up: list[str]  # what the server that hangs up was asked for, as far as it can read that

    def ask(self, prefix: str, count: int, at_once: int) -> dict[str, str]:
        """So many requests of each way, plain and by TLS. What each of the calls is that they cause, and which causes it."""
        wanted = [(how, way, number) for how in ("plain", "tls") for way in WAYS for number in range(count)]
        random.shuffle(wanted)
        waiting = [(how, way, _target(f"{way}/{prefix}{how}{number}")) for how, way, number in wanted]
        caused = {f"/out/{target}": f"/in/{target}" for _, _, target in waiting}
        for _, way, target in waiting:
            if way in _MORE_CALLS:
                caused[f"/out/{_MORE_CALLS[way]}/in/{target}"] = f"/in/{target}"
        errors: list[BaseException] = []
        threads = [threading.Thread(target=self._work, args=(waiting, errors)) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return caused

    def ask_by_http2(self, prefix: str, count: int) -> list[str]:
        """All at once, on one connection. What they cause."""
        targets = [_target(f"kept/{prefix}http2{number}") for number in range(count)]
        urls = [f"https://127.0.0.1:{self.ports['http2']}/in/{target}" for target in targets]
        trusted = ["--cacert", session_certificates().authority]
        command = [program("curl"), "--http2", *trusted, "--no-progress-meter", "-Zf", "-o", "/dev/null"]
        subprocess.run([*command, *" -o /dev/null ".join(urls).split()], check=True, timeout=60)
        return [f"/out/{target}" for target in targets]

    def _work(self, waiting: list[tuple[str, str, str]], errors: list[BaseException]) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        try:
            while waiting:
                how, way, target = waiting.pop()
                connection = connections.setdefault(how, self._connection(how))
                assert 200 == _status(connection, way, f"/in/{target}")
                if random.random() < 0.1:
                    connection.close()
        except IndexError:
            pass  # another one took the last
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            errors.append(error)
        finally:
            for connection in connections.values():
                connection.close()

    def _connection(self, how: str) -> http.client.HTTPConnection:
        if how == "plain":
            return http.client.HTTPConnection("127.0.0.1", self.ports[how], timeout=60)
        context = ssl.create_default_context(cafile=session_certificates().authority)
        return http.client.HTTPSConnection("127.0.0.1", self.ports[how], timeout=60, context=context)


def _status(connection: http.client.HTTPConnection, way: str, path: str) -> int:
    if way in _WITH_BODIES:
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(PIECES * len(PIECE)))
        connection.endheaders()
        for _ in range(PIECES):
            connection.send(PIECE)
            time.sleep(_PIECE_PAUSE_S)
    else:
        connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _target(name: str) -> str:
    return f"{name}/status/200/size/100/framing/length/delay/{random.randint(0, LATEST_MS)}"


@contextmanager
def proxied(folder: Path, plain: Running, by_tls: Running) -> Iterator[Proxy]:
    ports = {how: free_port() for how in ("plain", "tls", "http2")}
    with ExitStack() as ends:
        hung_up: list[str] = []
        hanging_up = ends.enter_context(_hanging_up(hung_up))
        public = ends.enter_context(public_folder())
        groups = "".join(_groups(how, server, hanging_up) for how, server in (("plain", plain), ("tls", by_tls)))
        made = session_certificates()
        certificate = f"ssl_certificate {made.certificate}; ssl_certificate_key {made.key};"
        others = f"""
  limit_req_zone $server_port zone=slow:1m rate=500r/s;
{groups}
  server {{ listen 127.0.0.1:{ports["tls"]} ssl; {certificate}
{_locations("tls", "https")} }}
  server {{ listen 127.0.0.1:{ports["http2"]} ssl http2; {certificate}
{_locations("plain", "http")} }}"""
        listen = [f"127.0.0.1:{ports['plain']}"]
        text = nginx.configuration(public, listen, _locations("plain", "http"), upstream=others)
        process = ends.enter_context(
            serving_elsewhere(nginx_command(public, text), folder, "127.0.0.1", ports["plain"])
        )
        yield Proxy(process, ports, hung_up)


def _groups(how: str, server: Running, hanging_up: int) -> str:
    alive = f"server 127.0.0.1:{server.port} max_fails=0;"
    dead = f"server 127.0.0.1:{free_port()} max_fails=0; server 127.0.0.1:{hanging_up} max_fails=0;"
    return f"""
  upstream {how}_kept {{ {alive} keepalive 8; }}
  upstream {how}_fresh {{ {alive} }}
  upstream {how}_dying {{ {dead} {alive} }}"""


def _locations(how: str, scheme: str) -> str:
    lines = [
        f"    location /in/{way}/ {{ {more} {_KEPT_ALIVE} proxy_pass {scheme}://{how}_{group}/out/{way}/; }}"
        for way, (group, more) in _WAYS.items()
    ]
    for name in _MORE_CALLS.values():
        target = f"proxy_pass {scheme}://{how}_fresh/out/{name}$request_uri;"
        lines.append(f"    location = /{name} {{ internal; proxy_pass_request_body off; {target} }}")
    return "\n".join(lines)


@contextmanager
def _hanging_up(asked_for: list[str]) -> Iterator[int]:
    """Reads a request and closes."""

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                request = accepted.recv(65536)
                if request.startswith(b"GET "):
                    asked_for.append(request.split(b" ")[1].decode())

    with socket.create_server(("127.0.0.1", free_port()), backlog=512) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
