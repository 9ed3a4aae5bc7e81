"""kill -9 of any of the agent's processes under load: the app answers, nothing stays attached, a new start works."""

import os
import signal
from pathlib import Path

import pytest

from otel_ebpf.probe.programs import Part
from tests.end_to_end.agent import Agent, assert_unloaded, kill_session, start_agent
from tests.end_to_end.sink import SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences
from tests.services.load import SteadyClient
from tests.services.plan import calls_without_body, make_call
from tests.services.processes import descendants_of, is_alive, wait_until
from tests.services.servers import Running

PEER_LOST = 5  # otel_ebpf.errors.PeerLostError


def assert_new_agent_works(stage: Stage, server: Running, prefix: str) -> None:
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    results = stage.client("http.client", server, calls_without_body(f"{prefix}again")).send()
    spans = stage.sink.wait_for(len(results), belongs_to(f"{prefix}again"))
    assert [] == differences(results, spans, SERVER)


@pytest.mark.parametrize("victim", ["probe", "exporter"])
def test_killed_process_takes_the_other_along_and_leaves_nothing(victim: str, prefix: str, stage: Stage) -> None:
    """The side that is left ends by itself, with a message; the kernel drops programs with their last descriptor."""
    server = stage.server("nginx")
    agent = stage.agent(is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=server.port)
    probe, exporter = agent.probe_pid, agent.exporter_pid
    programs = agent.program_ids()
    assert programs

    with SteadyClient(server, make_call(f"{prefix}load", "GET", 200, 1000).target) as load:
        wait_until(lambda: load.answered > 500, "the load runs")
        os.kill(probe if victim == "probe" else exporter, signal.SIGKILL)
        agent.wait_until_ended()
        wait_until(lambda: not is_alive(exporter), "the exporter ended")
        assert_unloaded(programs)
        at_end = load.answered
        wait_until(lambda: load.answered > at_end + 500, "the app goes on")

    assert [] == load.failures
    if victim == "exporter":
        assert PEER_LOST == agent.process.returncode
        assert "exporter" in agent.messages
    assert_new_agent_works(stage, server, prefix)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_its_processes_ends_it_as_one_to_the_first_does(
    number: signal.Signals, prefix: str, stage: Stage
) -> None:
    """A service manager tells each; Ctrl-C does, too."""
    server = stage.server("nginx")
    agent = stage.agent(is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=server.port)
    results = stage.client("http.client", server, calls_without_body(prefix)).send()

    os.killpg(agent.process.pid, number)
    agent.wait_until_ended()

    assert 0 == agent.process.returncode, agent.messages
    assert [] == differences(results, stage.sink.wait_for(len(results), belongs_to(prefix)), SERVER)


def compiler_of(agent_pid: int, part: Part) -> int | None:
    for pid in descendants_of(agent_pid):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(f"compile_child.py\0{part.value}\0".encode()):
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def cold(port: int, folder: Path) -> dict[str, str]:
    """With an empty cache the start needs compilers: two, that work at once on two processors."""
    return {"OTEL_EBPF_OPEN_PORT": str(port), "OTEL_EBPF_CACHE_DIR": str(folder / "empty")}


def test_a_killed_compiler_of_hooks_on_sockets_ends_the_start_with_a_message(
    prefix: str, stage: Stage, tmp_path: Path
) -> None:
    """Without them there is nothing to see."""
    server = stage.server("nginx")

    with SteadyClient(server, make_call(f"{prefix}load", "GET", 200, 1000).target) as load:
        agent = start_agent(stage.new_folder("agent"), stage.sink, cold(server.port, tmp_path))
        try:
            kill_compiler(agent, Part.SOCKETS)
            agent.wait_until_ended()
        finally:
            kill_session(agent.process)
        at_end = load.answered
        wait_until(lambda: load.answered > at_end + 500, "the app goes on")

    assert [] == load.failures
    assert agent.process.returncode not in (0, None)
    assert "compile" in agent.messages
    assert_new_agent_works(stage, server, prefix)


def test_without_the_other_compiler_plain_http_is_seen(prefix: str, stage: Stage, tmp_path: Path) -> None:
    """What hooks on sockets need none of is told to be missing, and why."""
    server = stage.server("nginx")
    agent = start_agent(stage.new_folder("agent"), stage.sink, cold(server.port, tmp_path))
    try:
        kill_compiler(agent, Part.UPROBES)
        agent.wait_for_message("not seen: the compiler was killed by SIGKILL")
        agent.wait_until_ready()
        results = stage.client("http.client", server, calls_without_body(prefix)).send()
        assert [] == differences(results, stage.sink.wait_for(len(results), belongs_to(prefix)), SERVER)
    finally:
        kill_session(agent.process)


def kill_compiler(agent: Agent, part: Part) -> None:
    pid = wait_until(lambda: compiler_of(agent.probe_pid, part), f"the compiler of {part.value} runs", every_s=0.002)
    os.kill(pid, signal.SIGKILL)
