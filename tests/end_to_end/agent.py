"""Runs the real agent for a test: `.venv/bin/otel-ebpf run`, as a user would.

In:   settings, by their names in the environment
Out:  a running agent that watches only what it was told to
Owns: the agent's processes and their output files

It always names its targets: without any it would watch every service of the machine.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from otel_ebpf.probe.watcher import SETTLED
from otel_ebpf.supervisor import UNSETTLED
from tests.end_to_end.bpf_objects import loaded_programs, programs_held_by
from tests.end_to_end.hooks import SOCKET_BACKEND
from tests.end_to_end.sink import Sink
from tests.services.processes import VENV_BIN, children_of, environment, wait_until

TARGET_SETTINGS = {"OTEL_EBPF_OPEN_PORT", "OTEL_EBPF_TARGET_PID", "OTEL_EBPF_AUTO_TARGET_EXE"}
READY_WORD = "watching"
# Only a failure waits for so long; how long it really takes is the bench's business.
SECONDS_TO_START = SECONDS_TO_END = 120.0


class Agent:
    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.stdout = folder / "stdout"
        self.stderr = folder / "stderr"

    @property
    def probe_pid(self) -> int:
        return self.process.pid

    @property
    def exporter_pid(self) -> int:
        """The one child that stays once the compiler has gone."""
        return wait_until(self._only_child, "the agent has exactly one child")

    def _only_child(self) -> int | None:
        children = children_of(self.process.pid)
        return children[0] if len(children) == 1 else None

    @property
    def messages(self) -> str:
        return self.stderr.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def printed(self) -> list[dict[str, Any]]:
        """The lines of the trace printer, for OTEL_EBPF_TRACE_PRINTER=json."""
        return [json.loads(line) for line in self.stdout.read_text().splitlines()]

    def wait_for_message(self, text: str, *, seconds: float = 60.0) -> None:
        wait_until(lambda: text in self.messages, f"the agent says {text!r}; it said: {self.messages}", seconds=seconds)

    def wait_until_ready(self) -> None:
        wait_until(
            lambda: READY_WORD in self.messages or not self.is_running, "the agent is ready", seconds=SECONDS_TO_START
        )
        assert self.is_running, f"the agent ended with {self.process.returncode}: {self.messages}"
        if UNSETTLED in self.messages:
            self.wait_for_message(SETTLED, seconds=SECONDS_TO_START)

    def program_ids(self) -> set[int]:
        """BPF programs that live because of this agent."""
        return programs_held_by([self.process.pid, *children_of(self.process.pid)])

    def stop(self) -> None:
        """Ends it as a service manager does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SECONDS_TO_END)

    def wait_until_ended(self) -> None:
        """It ends by itself, or was killed."""
        self.process.wait(SECONDS_TO_END)

    def assert_clean_stop(self) -> None:
        programs = self.program_ids()
        assert programs, "a running agent holds BPF programs, or this check shows nothing"
        self.stop()
        assert 0 == self.process.returncode, self.messages
        assert_unloaded(programs)


def assert_unloaded(programs: set[int]) -> None:
    """The kernel frees programs a moment after their last reference."""
    wait_until(lambda: not programs & loaded_programs().keys(), f"BPF programs {programs} are gone")


def agent_environment(sink: Sink | None, folder: Path, settings: dict[str, str]) -> dict[str, str]:
    env = environment(
        OTEL_EBPF_CACHE_DIR=str(folder / "cache"),
        OTEL_EBPF_STATUS_SOCKET="none",
        OTEL_EBPF_SHUTDOWN_TIMEOUT="20s",  # what was seen arrives on a busy machine, too; it ends once all is sent
    )
    env.pop("PYTHONPATH")  # as installed, not as in this checkout
    if SOCKET_BACKEND in os.environ:
        env[SOCKET_BACKEND] = os.environ[SOCKET_BACKEND]
    if sink is not None:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.endpoint
        env["OTEL_EXPORTER_OTLP_PROTOCOL"] = sink.protocol
    return {**env, **settings}


def start_agent(folder: Path, sink: Sink | None, settings: dict[str, str], command: list[str] | None = None) -> Agent:
    """Not ready yet, and the caller ends it with `kill_session`."""
    assert TARGET_SETTINGS & settings.keys() or command, "without a target the agent watches the whole machine"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
        process = subprocess.Popen(
            command or [str(VENV_BIN / "otel-ebpf"), "run"],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=agent_environment(sink, folder, settings),
            cwd=folder,
            start_new_session=True,
        )
    return Agent(process, folder)


@contextmanager
def running_agent(
    folder: Path,
    sink: Sink | None = None,
    *,
    command: list[str] | None = None,
    is_ended_by_test: bool = False,
    **settings: str,
) -> Iterator[Agent]:
    """A ready agent; at the end it must stop cleanly, unless the test itself ends it."""
    agent = start_agent(folder, sink, settings, command)
    try:
        agent.wait_until_ready()
        yield agent
        if not is_ended_by_test:
            assert agent.is_running, f"the agent ended with {agent.process.returncode}: {agent.messages}"
            agent.assert_clean_stop()
    finally:
        kill_session(agent.process)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """What is left of the agent's process group, which is its own since it leads a session."""
    with suppress(ProcessLookupError):  # the good case: nothing was left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(SECONDS_TO_END)
