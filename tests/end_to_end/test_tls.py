"""TLS libraries that come late, are replaced, vanish; processes that do; many connections at once."""

import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from itertools import count
from pathlib import Path

import pytest

from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.watcher import SETTLED
from otel_ebpf.supervisor import UNSETTLED
from tests.end_to_end.agent import Agent
from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences, target_of
from tests.services.plan import all_calls, make_call
from tests.services.processes import CHECKOUT, VENV_BIN, end, environment, free_port, wait_until
from tests.services.servers import Running, nginx_of_many_addresses, program

PEERS, ROUNDS = 200, 3
MEGABYTE = 1 << 20
STAY = {"anon_inode:bpf-prog", "anon_inode:bpf-map"}
PERF_EVENT = "anon_inode:[perf_event]"
LATE_CLIENT = [str(VENV_BIN / "python"), "-m", "tests.services.clients.late_tls"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_each_of_200_connections_in_one_loop_has_its_own_peer(loop: str, prefix: str, stage: Stage) -> None:
    """To addresses and ports that all differ; the client itself says which call went where."""
    ports = [free_port() for _ in range(4)]
    peers = [(f"127.0.1.{1 + number // 4}", ports[number % 4]) for number in range(PEERS)]
    server = stage.ends.enter_context(nginx_of_many_addresses(stage.new_folder("nginx"), peers))
    calls = [make_call(f"{prefix}{number:03}", "GET", 200, 1000) for number in range(ROUNDS * PEERS)]
    client = stage.client("many-peers", server, calls, peers=peers, loop=loop)
    stage.agent(OTEL_EBPF_TARGET_PID=client.pid)

    results = client.send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert PEERS == len({(result.peer_address, result.peer_port) for result in results})
    assert [] == differences(results, spans, CLIENT)


@pytest.mark.parametrize("server_name", ["aiohttp-tls", "gunicorn-gthread-tls", "nginx-tls", "uvicorn-uvloop-tls"])
def test_connections_that_are_older_than_the_agent(server_name: str, prefix: str, stage: Stage) -> None:
    """Nobody saw their ClientHello. The library reads a socket, or memory with what a socket took: either tells which."""
    server = stage.server(server_name)
    context = ssl.create_default_context(cafile=server.authority)
    connections = [HTTPSConnection(server.host, server.port, context=context, timeout=30) for _ in range(20)]
    for connection in connections:
        ask(connection, f"/{prefix}before")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    own_ports = {}
    for number, connection in enumerate(2 * connections):
        target = f"/{prefix}{number:02}"
        ask(connection, target)
        own_ports[target] = connection.sock.getsockname()[1]

    spans = stage.sink.wait_for(len(own_ports), belongs_to(prefix, SERVER))
    assert own_ports == {target_of(span): span.attributes["network.peer.port"] for span in spans}
    assert len(own_ports) == len(spans)
    for connection in connections:
        connection.close()


def ask(connection: HTTPSConnection, target: str) -> None:
    connection.request("GET", target)
    connection.getresponse().read()


@pytest.mark.parametrize(
    ("server_name", "client_name"),
    [
        ("uvicorn-uvloop-tls", "aiohttp"),
        ("aiohttp-tls", "node"),
        ("gunicorn-gthread-tls", "pyopenssl"),
        ("node-tls", "httpx"),
    ],
)
def test_a_megabyte_either_way_is_one_exchange_on_both_sides(
    server_name: str, client_name: str, prefix: str, stage: Stage
) -> None:
    """Some 64 records of TLS each; both processes are targets."""
    server = stage.server(server_name)
    calls = [make_call(f"{prefix}{number}", "POST", 200, MEGABYTE, sent=MEGABYTE) for number in range(2)]
    client = stage.client(client_name, server, calls, keep_alive=False)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_TARGET_PID=client.pid)

    results = client.send()

    spans = stage.sink.wait_for(2 * len(results), belongs_to(prefix))
    for kind in (SERVER, CLIENT):
        assert [] == differences(results, [span for span in spans if span.kind == kind], kind)
    assert 2 * len(results) == len(spans)


def test_a_server_that_switches_stacks_and_starts_after_the_agent_is_read_and_lives(prefix: str, stage: Stage) -> None:
    """gevent dies of a return probe. One without it uses the same library, and has its probes already."""
    port = free_port()
    other = stage.server("gunicorn-gthread-tls")
    stage.agent(OTEL_EBPF_OPEN_PORT=f"{port},{other.port}")
    server = stage.server("gunicorn-gevent-tls", port=port)
    tries = count()

    def is_seen() -> bool:
        stage.client("http.client", server, [make_call(f"{prefix}try{next(tries)}e", "GET")]).send()
        return any(f"{prefix}try" in target_of(span) for span in stage.sink.spans)

    wait_until(is_seen, "a request is seen", every_s=0.1)
    for name, where in (("gevent", server), ("gthread", other)):
        calls = all_calls(f"{prefix}{name}")
        results = stage.client("http.client", where, calls).send()
        spans = stage.sink.wait_for(len(results), belongs_to(f"{prefix}{name}"))
        assert [] == differences(results, spans, SERVER)


@dataclass
class Late:
    """tests/services/clients/late_tls.py, and what it was asked for."""

    process: subprocess.Popen[str]
    stage: Stage
    prefix: str
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, name: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(make_call(f"{self.prefix}{name}", "GET").target + "\n")
        self.process.stdin.flush()
        assert "200\n" == self.process.stdout.readline()

    def ask_until_seen(self) -> None:
        """The agent takes a moment to find a library that it does not know."""

        def is_seen() -> bool:
            self.ask(f"try{next(self.numbers)}e")
            return any(f"{self.prefix}try" in target_of(span) for span in self.stage.sink.spans)

        wait_until(is_seen, "a call is seen", every_s=0.1)

    def assert_all_are_seen(self, server: Running, what: str) -> None:
        for number in range(5):
            self.ask(f"{what}{number}e")
        spans = self.stage.sink.wait_for(5, belongs_to(f"{self.prefix}{what}"))
        assert [("GET", "https", 200, server.host, server.port)] * 5 == [
            (
                span.attributes["http.request.method"],
                span.attributes["url.scheme"],
                span.attributes["http.response.status_code"],
                span.attributes["network.peer.address"],
                span.attributes["network.peer.port"],
            )
            for span in spans
        ]


@contextmanager
def late_client(
    stage: Stage, server: Running, prefix: str, wrapped_in: list[str] | None = None, **env: str
) -> Iterator[Late]:
    process = subprocess.Popen(
        [*(wrapped_in or []), *LATE_CLIENT, server.authority, str(server.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**env),
        cwd=CHECKOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        yield Late(process, stage, prefix)
    finally:
        end(process)  # type: ignore[arg-type]
        process.stdin and process.stdin.close()
        process.stdout and process.stdout.close()


def test_a_library_that_is_loaded_after_the_agent_started_is_found(prefix: str, stage: Stage) -> None:
    """As Python's `ssl` is: at the first import. Calls in the moment until then are missed, none after it."""
    server = stage.server("aiohttp-tls")
    late = stage.ends.enter_context(late_client(stage, server, prefix))
    stage.agent(OTEL_EBPF_TARGET_PID=late.pid)
    assert set() == Procfs().tls_libraries(late.pid)

    late.ask_until_seen()

    late.assert_all_are_seen(server, "sure")


def libraries(folder: Path) -> Path:
    """The TLS library of this Python, for processes with this LD_LIBRARY_PATH."""
    folder.mkdir(exist_ok=True)
    for path in library_paths():
        fresh = folder / f"{path.name}.new"
        fresh.write_bytes(path.read_bytes())
        fresh.rename(folder / path.name)
    return folder


def library_paths() -> list[Path]:
    import _ssl  # noqa: F401 - maps them

    paths = {Path(os.fsdecode(mapped.path)) for mapped in Procfs().mapped_files(os.getpid())}
    return [path for path in paths if path.name.startswith(("libssl.so", "libcrypto.so"))]


def assert_runs(process: int, folder: Path) -> None:
    """Otherwise nothing is shown: it is the copy that it has loaded."""
    assert any(os.fsdecode(mapped.path).startswith(f"{folder}/libssl") for mapped in Procfs().mapped_files(process))


def test_a_library_that_is_replaced_on_disk_is_read_on(prefix: str, stage: Stage) -> None:
    """An upgrade, before the agent starts and again while it runs: processes go on with what they have loaded."""
    server = stage.server("aiohttp-tls")
    folder = libraries(stage.folder / "libraries")
    late = stage.ends.enter_context(late_client(stage, server, prefix, LD_LIBRARY_PATH=str(folder)))
    late.ask("loads")
    assert_runs(late.pid, folder)
    libraries(folder)
    stage.agent(OTEL_EBPF_TARGET_PID=late.pid)

    late.assert_all_are_seen(server, "replaced")
    libraries(folder)
    late.assert_all_are_seen(server, "again")


def test_a_library_whose_folder_is_gone_is_read(prefix: str, stage: Stage) -> None:
    """The file system that a container came from was taken away while its process runs on."""
    server = stage.server("aiohttp-tls")
    kept, folder = libraries(stage.folder / "kept"), stage.folder / "mounted"
    folder.mkdir()
    mount = f'mount -t tmpfs none "{folder}" && cp "{kept}"/lib* "{folder}" && exec "$@"'
    own_mounts = [program("unshare"), "--mount", "--propagation=private", "sh", "-c", mount, "sh"]
    late = stage.ends.enter_context(late_client(stage, server, prefix, own_mounts, LD_LIBRARY_PATH=str(folder)))
    late.ask("loads")
    assert_runs(late.pid, folder)
    enter = [program("nsenter"), "--mount", f"--target={late.pid}"]
    subprocess.run([*enter, program("umount"), "--lazy", str(folder)], check=True, timeout=30)
    assert not list(Path(f"/proc/{late.pid}/root{folder}").iterdir())
    stage.agent(OTEL_EBPF_TARGET_PID=late.pid)

    late.assert_all_are_seen(server, "rootless")


def copy_of(executable: str, folder: Path) -> Path:
    """So that nobody else's processes on this machine are watched."""
    folder.mkdir()
    return Path(shutil.copy2(executable, folder))


def test_processes_that_live_for_one_call_over_tls_are_seen(prefix: str, stage: Stage) -> None:
    """curl is gone before its library has been looked into; one that comes later finds it known."""
    own_curl = copy_of(program("curl"), stage.folder / "bin")
    server = stage.server("aiohttp-tls")
    late = stage.ends.enter_context(late_client(stage, server, f"{prefix}late"))
    stage.agent(OTEL_EBPF_AUTO_TARGET_EXE=own_curl, OTEL_EBPF_TARGET_PID=late.pid)
    tries = count()

    def is_seen() -> bool:
        calls = [make_call(f"{prefix}try{next(tries)}e", "GET")]
        stage.client("curl", server, calls, curl=str(own_curl)).send()
        return any(f"{prefix}try" in target_of(span) for span in stage.sink.spans)

    wait_until(is_seen, "a call is seen", every_s=0.1)
    late.ask_until_seen()  # it has loaded the same library and goes on: from here on there is no moment without a user
    calls = [make_call(f"{prefix}sure{number}e", "POST", 200, 1000, sent=number * 1000) for number in range(6)]
    results = stage.client("curl", server, calls, curl=str(own_curl)).send()

    spans = stage.sink.wait_for(len(results), belongs_to(f"{prefix}sure"))
    assert [] == differences(results, spans, CLIENT)
    assert len(results) == len({span.resource["process.pid"] for span in spans})


def test_processes_that_end_while_their_library_is_looked_into_leave_nothing(prefix: str, stage: Stage) -> None:
    """A message at most: the agent goes on, and when all of them are gone it holds no attachment and no file more."""
    server = stage.server("aiohttp-tls")
    python = copy_of(os.path.realpath(sys.executable), stage.folder / "bin")
    late = stage.ends.enter_context(late_client(stage, server, prefix))
    agent = stage.agent(OTEL_EBPF_TARGET_PID=late.pid, OTEL_EBPF_AUTO_TARGET_EXE=python)
    before = len(held_by(agent))
    script = "import os, ssl; os.kill(os.getpid(), 9)"
    for number in range(12):
        folder = libraries(stage.folder / f"libraries-{number}")  # each has files that the agent does not know
        env = environment(LD_LIBRARY_PATH=str(folder), PYTHONHOME=sys.base_prefix)
        ended = subprocess.run([python, "-c", script], env=env, timeout=120, check=False)
        assert -signal.SIGKILL == ended.returncode

    late.ask_until_seen()
    late.assert_all_are_seen(server, "sure")
    assert uprobes_of(agent)
    late.process.stdin and late.process.stdin.close()
    late.process.wait(60)
    wait_until(lambda: not uprobes_of(agent), "no uprobe is left")
    wait_until(lambda: len(held_by(agent)) <= before, f"the probe holds {before} files again")
    assert "Traceback" not in agent.messages


def held_by(agent: Agent) -> dict[int, str]:
    """What the probe has open, by descriptor: attachments are such. Programs and maps, once loaded, stay."""
    found = {}
    for link in Path(f"/proc/{agent.probe_pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[int(link.name)] = os.readlink(link)
    return {number: name for number, name in found.items() if name not in STAY}


def uprobes_of(agent: Agent) -> list[int]:
    """In whichever form: a link of BPF that says so, or a perf event."""
    descriptors = [number for number, name in held_by(agent).items() if "bpf_link" in name or name == PERF_EVENT]
    return [number for number in descriptors if is_uprobe(Path(f"/proc/{agent.probe_pid}/fdinfo/{number}"))]


def is_uprobe(fdinfo: Path) -> bool:
    try:
        text = fdinfo.read_text()
    except FileNotFoundError:
        return False
    return not any(line.startswith("link_type:") and "raw_tracepoint" in line for line in text.splitlines())


HURRIED = """
import sys
from otel_ebpf import cli
from otel_ebpf.probe import watcher
watcher._SETTLE_S = 0.0
sys.exit(cli.main(["run"]))
"""


def test_a_start_that_takes_long_says_so_and_then_that_tls_is_seen(prefix: str, stage: Stage) -> None:
    """Not told, it would be taken for having seen nothing. What is long is less here than on a busy host."""
    server = stage.server("nginx-tls")
    command = [str(VENV_BIN / "python"), "-c", HURRIED]
    agent = stage.agent(command=command, OTEL_EBPF_OPEN_PORT=server.port)

    calls = [make_call(f"{prefix}{number}", "GET") for number in range(3)]
    results = stage.client("http.client", server, calls).send()

    assert agent.messages.index(UNSETTLED) < agent.messages.index(SETTLED)
    assert [] == differences(results, stage.sink.wait_for(len(results), belongs_to(prefix)), SERVER)
