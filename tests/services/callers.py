"""The real clients that tests run, as a table, and the one way to drive them.

In:   a name, where to send, a list of Calls
Out:  what the client itself says of each call: Result
Owns: the client's process

A client is started first and told to send later, so that a test can make it a target in between.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.services.plan import Call
from tests.services.processes import CHECKOUT, VENV_BIN, end, environment
from tests.services.servers import GO_HTTP, SERVICES, Running, program
from tools.go_build import PLAIN, Kind, build

SECONDS_FOR_ALL_CALLS = 180  # emulated, 28 processes of curl take a minute


@dataclass(frozen=True)
class Result:
    id: str
    method: str
    target: str
    status: int
    request_body_bytes: int
    response_body_bytes: int
    received_bytes: int | None  # what the server says it read
    start_monotonic_ns: int
    end_monotonic_ns: int
    start_unix_ns: int
    scheme: str = "http"
    own_port: int | None = None  # where the client says it
    peer_address: str | None = None
    peer_port: int | None = None

    @property
    def duration_ns(self) -> int:
        return self.end_monotonic_ns - self.start_monotonic_ns


@dataclass(frozen=True)
class Caller:
    command: list[str]
    reaches_unix_sockets: bool = True
    is_one_process: bool = True
    speaks_tls: bool = True
    speaks_plain_text: bool = True
    takes_peers: bool = False  # it has a connection to each of the plan's peers, all of them at once


def python_client(name: str) -> list[str]:
    return [str(VENV_BIN / "python"), "-m", f"tests.services.clients.{name}"]


CALLERS = {
    "http.client": Caller(python_client("http_client")),
    "requests": Caller(python_client("requests_client"), reaches_unix_sockets=False),
    "httpx": Caller(python_client("httpx_client")),
    "aiohttp": Caller(python_client("aiohttp_client"), reaches_unix_sockets=False),
    "node": Caller(["node", str(SERVICES / "node_client.js")]),
    "go": Caller(["go_http", "call"]),
    "curl": Caller(python_client("curl"), is_one_process=False),
    "many-peers": Caller(python_client("many_peers"), reaches_unix_sockets=False, takes_peers=True),
    "pycurl": Caller(["/usr/bin/python3", "-m", "tests.services.clients.pycurl_client"]),
    "curl_cffi": Caller(python_client("curl_cffi_client")),
    "pyopenssl": Caller(python_client("pyopenssl_client"), reaches_unix_sockets=False, speaks_plain_text=False),
}
ORDINARY_CALLERS = {name: caller for name, caller in CALLERS.items() if not caller.takes_peers}
PLAIN_CALLERS = [name for name, caller in ORDINARY_CALLERS.items() if caller.speaks_plain_text]
TLS_CALLERS = [name for name, caller in ORDINARY_CALLERS.items() if caller.speaks_tls]


def unlike_plan(calls: list[Call], results: list[Result]) -> list[str]:
    """What did not happen as planned: then nothing can be said of spans."""
    found = []
    for call, result in zip(calls, results, strict=True):
        wanted = (call.id, call.method, call.target, call.status, call.request_body_bytes, call.response_body_bytes)
        seen = (result.id, result.method, result.target, result.status, result.request_body_bytes)
        if wanted != (*seen, result.response_body_bytes):
            found.append(f"{wanted} but {seen}, {result.response_body_bytes}")
        if result.received_bytes not in (None, call.request_body_bytes):
            found.append(f"{call.id}: the server read {result.received_bytes} of {call.request_body_bytes} bytes")
        if result.duration_ns < call.delay_ms * 1_000_000:
            found.append(f"{call.id}: took {result.duration_ns} ns, asked for {call.delay_ms} ms")
    return found


class Calling:
    """A client that is ready to send."""

    def __init__(self, process: subprocess.Popen[str], calls: list[Call], scheme: str) -> None:
        self.process = process
        self.calls = calls
        self.scheme = scheme

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self) -> list[Result]:
        said, _ = self.process.communicate("go\n", timeout=SECONDS_FOR_ALL_CALLS)
        assert self.process.returncode == 0, f"{self.process.args!r} exited with {self.process.returncode}"
        results = [Result(**result, scheme=self.scheme) for result in json.loads(said)]
        unlike = unlike_plan(self.calls, results)
        assert [] == unlike, unlike
        return results


@contextmanager
def calling(
    name: str,
    folder: Path,
    where: Running,
    calls: list[Call],
    *,
    keep_alive: bool = True,
    curl: str = "",
    tls_version: str = "",
    go: Kind = PLAIN,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    **more: object,
) -> Iterator[Calling]:
    """`tls_version`: the highest, as `TLSv1.2`; `go`: how its client is built; `within`: a command that the client is to
    be run by; `more` is for the client alone."""
    folder.mkdir(parents=True, exist_ok=True)
    plan: dict[str, Any] = {
        "host": where.host,
        "port": where.port,
        "unix_socket": where.unix_socket,
        "scheme": where.scheme,
        "authority": where.authority,
        "tls_version": tls_version,
        "keep_alive": keep_alive,
        "calls": [call.as_json() for call in calls],
        **more,
    }
    command = list(CALLERS[name].command)
    if name == "go":
        command[0] = str(build(GO_HTTP, go))
    elif name == "node":
        command[0] = program("node")
    elif name == "curl":
        plan["program"] = curl or program("curl")
    (folder / "plan.json").write_text(json.dumps(plan))
    process = subprocess.Popen(
        [*within, *command, str(folder / "plan.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**(env or {})),
        cwd=CHECKOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Calling(process, calls, where.scheme)
    finally:
        end(process)  # type: ignore[arg-type]
        process.stdin and process.stdin.close()
        process.stdout.close()


def send_all(name: str, folder: Path, where: Running, calls: list[Call], **options: Any) -> list[Result]:
    with calling(name, folder, where, calls, **options) as client:
        return client.send()
