"""Names that clients look up: an event on the span that waited for it, and the server's name.

The names are in a hosts file that the client alone sees, in a mount namespace of its own.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.sink import Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.test_recording import by_id, recording_agent, replay_as_nobody, stop
from tests.end_to_end.truth import belongs_to
from tests.services.callers import Result
from tests.services.plan import make_call
from tests.services.processes import CHECKOUT, environment
from tests.services.servers import Running

NAME = "shop.test"
BY_THE_THREAD_THAT_CONNECTS = ["http.client", "requests", "httpx"]
BY_ANOTHER_THREAD = ["aiohttp", "node", "pycurl"]
CLOCK_TOLERANCE_NS = 5_000_000  # see truth.py


def within(folder: Path) -> list[str]:
    """Runs a command where NAME is 127.0.0.1, under the number of this process."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]


def named(server: Running) -> Running:
    return replace(server, host=NAME)


def call_by_name(
    name: str, stage: Stage, prefix: str, tmp_path: Path, *, keep_alive: bool, **settings: object
) -> tuple[list[Result], list[Span]]:
    """Three calls, in the order in which they were made."""
    server = stage.server("go")
    calls = [make_call(f"{prefix}{number}", "GET", 200, 100) for number in range(3)]
    calling = stage.client(name, named(server), calls, keep_alive=keep_alive, within=within(tmp_path))
    stage.agent(OTEL_EBPF_TARGET_PID=calling.pid, **settings)
    results = calling.send()
    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    return results, sorted(spans, key=lambda span: span.start_unix_ns)


def expect_event(span: Span, result: Result) -> None:
    (event,) = span.events
    assert "dns.lookup" == event.name
    assert {"dns.question.name", "dns.answers", "dns.lookup.duration"} == set(event.attributes)
    assert NAME == event.attributes["dns.question.name"]
    assert ["127.0.0.1"] == event.attributes["dns.answers"]
    end_ns = event.unix_ns + event.attributes["dns.lookup.duration"] * 1e9
    assert result.start_unix_ns - CLOCK_TOLERANCE_NS <= event.unix_ns <= end_ns <= span.start_unix_ns


@pytest.mark.parametrize("name", [*BY_THE_THREAD_THAT_CONNECTS, *BY_ANOTHER_THREAD])
def test_the_call_that_waited_for_a_name_says_so(name: str, prefix: str, tmp_path: Path, stage: Stage) -> None:
    """Those that follow on the connection did not wait."""
    results, spans = call_by_name(name, stage, prefix, tmp_path, keep_alive=True, OTEL_EBPF_SPAN_EVIDENCE="true")

    expect_event(spans[0], results[0])
    assert [[], []] == [span.events for span in spans[1:]]
    assert {NAME} == {span.attributes["server.address"] for span in spans}
    evidence = "address_and_host" if name in BY_ANOTHER_THREAD else None
    assert evidence == spans[0].attributes.get("otel_ebpf.evidence.dns_lookup")


@pytest.mark.parametrize("name", ["http.client", "node"])
def test_each_new_connection_has_waited_for_its_own_lookup(
    name: str, prefix: str, tmp_path: Path, stage: Stage
) -> None:
    results, spans = call_by_name(name, stage, prefix, tmp_path, keep_alive=False)

    for span, result in zip(spans, results, strict=True):
        expect_event(span, result)


def test_switched_off_there_is_none(prefix: str, tmp_path: Path, stage: Stage) -> None:
    _, spans = call_by_name("http.client", stage, prefix, tmp_path, keep_alive=False, OTEL_EBPF_DNS="off")

    assert [] == [event for span in spans for event in span.events]


def test_a_call_to_an_address_that_was_looked_up_names_the_server(prefix: str, tmp_path: Path, stage: Stage) -> None:
    """The program asks for the name itself, and hands the address on."""
    server = stage.server("go")
    call = make_call(f"{prefix}bare", "GET", 200, 100)
    script = (
        "import http.client, socket, sys\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "address = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM)[0][4][0]\n"
        "connection = http.client.HTTPConnection(address, int(sys.argv[2]))\n"
        "connection.request('GET', sys.argv[3])\n"
        "connection.getresponse().read()\n"
    )
    command = [*within(tmp_path), sys.executable, "-c", script, NAME, str(server.port), call.target]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=CHECKOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        stage.agent(OTEL_EBPF_TARGET_PID=process.pid, OTEL_EBPF_SPAN_EVIDENCE="true")
        process.communicate("go\n", timeout=30)

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert (NAME, server.port) == (span.attributes["server.address"], span.attributes["server.port"])
    assert "127.0.0.1" == span.attributes["network.peer.address"]
    assert span.attributes["url.full"].startswith(f"http://127.0.0.1:{server.port}/")
    assert "dns_lookup" == span.attributes["otel_ebpf.evidence.server_address"]
    assert [NAME] == [event.attributes["dns.question.name"] for event in span.events]


@pytest.mark.parametrize("options", [[], ["--record-redacted"]], ids=["all", "redacted"])
def test_a_replay_has_the_same_events(options: list[str], prefix: str, tmp_path: Path, stage: Stage) -> None:
    """Ids, times and what was looked up."""
    server = stage.server("go")
    calls = [make_call(f"{prefix}{number}", "GET", 200, 100) for number in range(2)]
    calling = stage.client("http.client", named(server), calls, keep_alive=False, within=within(tmp_path))
    agent, path = recording_agent(stage, server.port, *options, OTEL_EBPF_TARGET_PID=str(calling.pid))
    calling.send()
    stage.sink.wait_for(4, belongs_to(prefix))
    stop(agent)

    spans, _ = replay_as_nobody(path)

    assert by_id(stage.sink.spans) == by_id(spans)
    assert 2 == sum(len(span.events) for span in spans)
