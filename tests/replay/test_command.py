"""`otel-ebpf replay` and what `run --record` refuses, as a user calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.errors import AgentError
from otel_ebpf.supervisor import open_new_file
from tests.captures.replaying import CAPTURES

ROOT = Path(__file__).parents[2]
PIPELINED = CAPTURES / "pipelined.recording"


def otel_ebpf(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environ}
    command = [sys.executable, "-m", "otel_ebpf", *map(str, arguments)]
    return subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def test_a_replay_prints_as_run_does_also_where_run_would_only_send() -> None:
    done = otel_ebpf("replay", PIPELINED, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")

    assert 0 == done.returncode
    words = [line.split()[1:6] for line in done.stdout.splitlines()]
    requests = [["GET", "/a", "200"], ["POST", "/2", "201"], ["GET", "/3", "404"]]
    assert sorted([["wire", arrow, *request] for arrow in "→←" for request in requests]) == sorted(words)
    assert done.stderr.startswith("otel-ebpf: ")


def test_the_printer_setting_is_that_of_run() -> None:
    lines = otel_ebpf("replay", PIPELINED, OTEL_EBPF_TRACE_PRINTER="json").stdout.splitlines()

    assert [200, 200, 201, 201, 404, 404] == sorted(json.loads(line)["status"] for line in lines)
    assert "" == otel_ebpf("replay", PIPELINED, OTEL_EBPF_TRACE_PRINTER="disabled").stdout


def test_json_says_what_was_inferred_and_spans_only_when_asked(tmp_path: Path) -> None:
    """RFC 9112 6.3, item 8: a response without a length ends with the connection."""
    path = tmp_path / "spans"
    replayed = otel_ebpf("replay", CAPTURES / "until_close.recording", "--spans", path, OTEL_EBPF_TRACE_PRINTER="json")

    evidence = [json.loads(line)["evidence"] for line in replayed.stdout.splitlines()]
    assert {"close"} == {found["otel_ebpf.evidence.response_end"] for found in evidence}
    assert [None, "heuristic"] == [found.get("otel_ebpf.evidence.route") for found in sorted(evidence, key=len)]
    assert b"otel_ebpf.evidence" not in path.read_bytes()


def test_a_path_that_was_cut_is_marked_on_its_span(tmp_path: Path) -> None:
    """By default: it is no inference but a fact about the value."""
    path = tmp_path / "spans"
    otel_ebpf("replay", CAPTURES / "a_path_that_is_longer_than_reported.recording", "--spans", path)

    request = ExportTraceServiceRequest.FromString(path.read_bytes())
    found = [
        {attribute.key: attribute.value.string_value for attribute in span.attributes}
        for span in request.resource_spans[0].scope_spans[0].spans
    ]
    assert ["url.full", "url.path"] == sorted(attributes["otel_ebpf.truncated"] for attributes in found)
    assert {8192} == {len(attributes[attributes["otel_ebpf.truncated"]]) for attributes in found}


def test_spans_are_written_as_one_otlp_request(tmp_path: Path) -> None:
    path = tmp_path / "spans"
    otel_ebpf("replay", PIPELINED, "--spans", path)

    request = ExportTraceServiceRequest.FromString(path.read_bytes())
    (resource_spans,) = request.resource_spans
    (scope_spans,) = resource_spans.scope_spans
    assert ["GET", "GET", "GET /a", "GET /{id}", "POST", "POST /{id}"] == sorted(
        span.name for span in scope_spans.spans
    )


def test_spans_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Whatever order a set has, whatever the time zone: nothing of the machine is in them."""
    recording = CAPTURES / "twenty_pipelined.recording"
    for number, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        otel_ebpf("replay", recording, "--spans", tmp_path / number, PYTHONHASHSEED=number, TZ=zone)

    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert len((tmp_path / "1").read_bytes()) > 40 * 100


def test_a_recording_that_is_cut_off_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(PIPELINED.read_bytes()[:-20])
    done = otel_ebpf("replay", path)

    assert 0 == done.returncode
    assert "the recording is cut off after " in done.stderr
    assert 6 == len(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "not a recording"), (b"\x7fELF" * 20, "not a recording"), (None, "No such file")],
    ids=["empty", "another file", "no file"],
)
def test_what_is_no_recording_is_named_as_such(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    done = otel_ebpf("replay", path)

    assert (1, "") == (done.returncode, done.stdout)
    assert why in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_redaction_without_a_recording_is_refused() -> None:
    done = otel_ebpf("run", "--record-redacted")

    assert 2 == done.returncode
    assert "name a file with --record" in done.stderr


def test_a_new_file_is_for_its_owner_alone_and_none_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "new"
    os.close(open_new_file(path))

    assert 0o600 == path.stat().st_mode & 0o777
    with pytest.raises(AgentError, match="it exists"):
        open_new_file(path)


def test_a_link_is_not_followed_to_what_it_names(tmp_path: Path) -> None:
    """Root writes where somebody else may have put a link."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(AgentError, match="it exists"):
        open_new_file(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="No such file"):
        open_new_file(tmp_path / "none" / "new")
