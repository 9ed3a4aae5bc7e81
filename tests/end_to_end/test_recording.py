"""`run --record` and `replay`: the same spans, later, by nobody."""

import io
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.records.frames import decode_frame
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.records.recording import TIME, EntryKind, RecordingReader
from tests.end_to_end.agent import Agent, running_agent, start_agent
from tests.end_to_end.sink import Span, spans_of
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.plan import all_calls
from tests.services.processes import VENV_BIN, wait_until
from tests.services.servers import calls_for

RUN = [str(VENV_BIN / "otel-ebpf"), "run"]


def recording_agent(stage: Stage, port: int, *options: str, **settings: str) -> tuple[Agent, Path]:
    """The test ends it."""
    path = stage.new_folder("recording")
    running = running_agent(
        stage.new_folder("agent"),
        stage.sink,
        command=[*RUN, "--record", str(path), *options],
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=str(port),
        OTEL_EBPF_CACHE_DIR=str(stage.bytecode_cache),
        **settings,
    )
    return stage.ends.enter_context(running), path


def stop(agent: Agent) -> None:
    agent.stop()
    assert 0 == agent.process.returncode, agent.messages


def replay_as_nobody(path: Path) -> tuple[list[Span], str]:
    """The spans, and what it said. A folder and a copy of its own: root's files are not for nobody."""
    nobody = pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp())
    try:
        copy, spans = folder / "recording", folder / "spans"
        shutil.copy(path, copy)
        for owned in (folder, copy):
            os.chown(owned, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [str(VENV_BIN / "otel-ebpf"), "replay", str(copy), "--spans", str(spans)],
            env={"PATH": os.defpath},
            cwd=folder,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        return list(spans_of(ExportTraceServiceRequest.FromString(spans.read_bytes()))), done.stderr
    finally:
        shutil.rmtree(folder)


def by_id(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.span_id)


@pytest.mark.parametrize("name", ["gunicorn-gthread", "uvicorn-uvloop-httptools", "node", "go"])
def test_a_replay_by_nobody_gives_the_spans_that_were_sent(name: str, prefix: str, stage: Stage) -> None:
    """Ids, times, attributes, resources: everything, of everything that was exported."""
    server = stage.server(name)
    agent, path = recording_agent(stage, server.port)
    results = stage.client("http.client", server, calls_for(name, prefix)).send()
    assert len(results) == len(stage.sink.wait_for(len(results), belongs_to(prefix)))
    stop(agent)

    spans, said = replay_as_nobody(path)

    assert by_id(stage.sink.spans) == by_id(spans)
    assert f"{len(spans)} spans" in said
    assert "cut off" not in said


def test_a_redacted_recording_gives_the_same_spans_without_what_was_secret(prefix: str, stage: Stage) -> None:
    server = stage.server("go")
    agent, path = recording_agent(stage, server.port, "--record-redacted")
    results = stage.client("http.client", server, all_calls(prefix)).send()
    assert len(results) == len(stage.sink.wait_for(len(results), belongs_to(prefix)))
    stop(agent)

    spans, _ = replay_as_nobody(path)

    assert [without_query(span) for span in by_id(stage.sink.spans)] == [without_query(span) for span in by_id(spans)]
    queries = {span.attributes["url.query"] for span in stage.sink.spans if "url.query" in span.attributes}
    values = {pair.partition("=")[2] for query in queries for pair in query.split("&")} - {""}
    recorded = path.read_bytes()
    assert [] == [value for value in values if len(value) > 5 and value.encode() in recorded]
    assert [()] == list({identity.argv for identity in identities(recorded)}), "command lines are left out"


def identities(recording: bytes) -> list[ServiceIdentity]:
    entries = RecordingReader(io.BytesIO(recording)).entries()
    frames = [decode_frame(entry.payload[TIME.size :]) for entry in entries if entry.kind == EntryKind.FRAME]
    return [frame for frame in frames if isinstance(frame, ServiceIdentity)]


def without_query(span: Span) -> Span:
    span.attributes.pop("url.query", None)
    return span


def test_an_agent_that_was_killed_leaves_a_recording_of_all_it_had_seen(prefix: str, stage: Stage) -> None:
    server = stage.server("go")
    agent, path = recording_agent(stage, server.port)
    results = stage.client("http.client", server, all_calls(prefix)).send()
    wanted = belongs_to(prefix)
    assert len(results) == len(stage.sink.wait_for(len(results), wanted))
    os.kill(agent.exporter_pid, signal.SIGKILL)
    agent.wait_until_ended()

    spans, said = replay_as_nobody(path)

    assert by_id(stage.sink.wait_for(len(results), wanted)) == by_id([span for span in spans if wanted(span)])
    assert "cut off" in said


def test_a_recording_is_for_root_alone_and_never_written_over(stage: Stage) -> None:
    server = stage.server("go")
    agent, path = recording_agent(stage, server.port)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert (0, 0) == (path.stat().st_uid, path.stat().st_gid)
    stop(agent)
    before = path.read_bytes()

    second = start_agent(
        stage.new_folder("agent"), None, {"OTEL_EBPF_OPEN_PORT": str(server.port)}, [*RUN, "--record", str(path)]
    )
    second.wait_until_ended()

    assert 1 == second.process.returncode
    assert f"cannot record to {path}: it exists" in second.messages
    assert before == path.read_bytes()


def test_a_start_that_fails_leaves_no_empty_recording(stage: Stage) -> None:
    """Else the next start would be refused for it."""
    path = stage.new_folder("recording")
    agent = start_agent(
        stage.new_folder("agent"),
        None,
        {"OTEL_EBPF_TARGET_PID": str(os.getpid()), "OTEL_EBPF_USER": "no-such-user"},
        [*RUN, "--record", str(path)],
    )

    agent.wait_until_ended()
    assert 0 != agent.process.returncode
    assert "no-such-user" in agent.messages
    wait_until(lambda: not path.exists(), "the empty recording is removed")
