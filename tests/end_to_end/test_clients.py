"""Every client of the table as the target: N calls are N CLIENT spans, each equal to what the client itself says."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences
from tests.services.callers import CALLERS, PLAIN_CALLERS, TLS_CALLERS
from tests.services.plan import all_calls, make_call
from tests.services.servers import program

ONE_PROCESS = [name for name in PLAIN_CALLERS if CALLERS[name].is_one_process]
TLS_IN_ONE_PROCESS = [name for name in TLS_CALLERS if CALLERS[name].is_one_process]
REACH_UNIX = [name for name in ONE_PROCESS if CALLERS[name].reaches_unix_sockets]


@pytest.mark.parametrize("name", ONE_PROCESS)
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_every_call_is_one_right_span(name: str, keep_alive: bool, prefix: str, stage: Stage) -> None:
    """Only the client is a target, so its server's side gives no span."""
    server = stage.server("go")
    calling = stage.client(name, server, all_calls(prefix), keep_alive=keep_alive)
    stage.agent(OTEL_EBPF_TARGET_PID=calling.pid)

    results = calling.send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, CLIENT)
    assert len(results) == len(spans)
    assert {(server.host, server.port)} == {
        (span.attributes["server.address"], span.attributes["server.port"]) for span in spans
    }
    assert {(server.host, server.port)} == {
        (span.attributes["network.peer.address"], span.attributes["network.peer.port"]) for span in spans
    }


@pytest.mark.parametrize("name", TLS_IN_ONE_PROCESS)
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_every_call_over_tls_is_one_right_span(name: str, keep_alive: bool, prefix: str, stage: Stage) -> None:
    """Over TLS 1.3 where connections are kept, 1.2 where they are not; with the server's address, which no call names."""
    server = stage.server("aiohttp-tls")
    tls_version = "TLSv1.3" if keep_alive else "TLSv1.2"
    calling = stage.client(name, server, all_calls(prefix), keep_alive=keep_alive, tls_version=tls_version)
    stage.agent(OTEL_EBPF_TARGET_PID=calling.pid)

    results = calling.send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, CLIENT)
    assert len(results) == len(spans)
    assert {(server.host, server.port)} == {
        (span.attributes["network.peer.address"], span.attributes["network.peer.port"]) for span in spans
    }


@pytest.mark.parametrize("name", REACH_UNIX)
def test_calls_over_a_unix_socket_are_seen(name: str, prefix: str, stage: Stage) -> None:
    calling = stage.client(name, stage.go_server("unix"), all_calls(prefix))
    stage.agent(OTEL_EBPF_TARGET_PID=calling.pid)

    results = calling.send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, CLIENT)


def test_process_that_lives_for_one_call_is_seen(prefix: str, tmp_path: Path, stage: Stage) -> None:
    """curl lives some 20 ms (200 with a slow answer) and is a target by its executable from its first instruction."""
    own_curl = tmp_path / "bin" / "curl"  # a copy, so that nobody else's curl on this machine is watched
    own_curl.parent.mkdir()
    shutil.copy2(program("curl"), own_curl)
    server = stage.server("go")
    stage.agent(OTEL_EBPF_AUTO_TARGET_EXE=own_curl)
    calls = [*all_calls(prefix), make_call(f"{prefix}lives200ms", "GET", 200, 1000, delay_ms=150)]

    results = stage.client("curl", server, calls, curl=str(own_curl)).send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, CLIENT)
    assert len(results) == len({span.resource["process.pid"] for span in spans})


def test_process_that_is_over_before_anybody_looks_is_named_by_its_executable(
    prefix: str, tmp_path: Path, stage: Stage
) -> None:
    own_curl = tmp_path / "bin" / "curl-of-another-name"
    own_curl.parent.mkdir()
    shutil.copy2(program("curl"), own_curl)
    server = stage.server("go")
    agent = stage.agent(OTEL_EBPF_AUTO_TARGET_EXE=own_curl)
    first = stage.client("curl", server, [make_call(f"{prefix}first", "GET", 200, 1000)], curl=str(own_curl)).send()
    stage.sink.wait_for(len(first), belongs_to(prefix))  # sockets are seen from the first target on

    os.kill(agent.probe_pid, signal.SIGSTOP)
    try:
        results = stage.client("curl", server, all_calls(prefix)[:2], curl=str(own_curl)).send()
    finally:
        os.kill(agent.probe_pid, signal.SIGCONT)

    results = [*first, *results]
    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, CLIENT)
    assert len(results) == len({span.resource["process.pid"] for span in spans})
    named = {(span.resource["service.name"], span.resource["process.executable.path"]) for span in spans}
    assert {("curl-of-another-name", str(own_curl))} == named


@pytest.mark.parametrize("behind", ["tcp", "unix"])
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_reverse_proxy_gives_both_sides(behind: str, keep_alive: bool, prefix: str, stage: Stage) -> None:
    """nginx: what it serves and what it calls, over kept and fresh upstream connections, of one service."""
    upstream = stage.go_server("unix") if behind == "unix" else stage.server("go")
    server = stage.proxy(upstream, keep_alive=keep_alive)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    results = stage.client("http.client", server, all_calls(prefix)).send()

    spans = stage.sink.wait_for(2 * len(results), belongs_to(prefix))
    assert [] == differences(results, [span for span in spans if span.kind == SERVER], SERVER)
    assert [] == differences(results, [span for span in spans if span.kind == CLIENT], CLIENT)
    assert 2 * len(results) == len(spans)
    assert 1 == len({span.resource["service.instance.id"] for span in spans})
