"""What real programs of the kernel said once, replayed: no kernel, no root. See tests/captures/README.md."""

import io
import json
from dataclasses import replace as replaced
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.exchanges.line_mask import mask_line
from otel_ebpf.export.facts import decode_facts
from otel_ebpf.export.inputs import RecordingInputs
from otel_ebpf.export.redaction import Redaction
from otel_ebpf.export.replay import Replay, SpanFile
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.recording import Entry, EntryKind, RecordingReader, RecordingWriter
from tests.captures.cases import CASES
from tests.captures.replaying import CAPTURES, SeenExchanges, facts_of, replay

RECORDINGS = sorted(CAPTURES.glob("*.recording"))
SECRETS = CAPTURES / "secrets.recording"
MAX_BYTES = 200_000


def name(path: Path) -> str:
    return path.stem


def entries_of(recording: bytes) -> list[Entry]:
    return list(RecordingReader(io.BytesIO(recording)).entries())


def fail(line: str) -> None:
    raise AssertionError(line)


def recorded_again(recording: bytes, is_redacted: bool) -> tuple[bytes, list[Exchange]]:
    """A recording of the replay of a recording; the exchanges of that replay."""
    file = io.BytesIO()
    writer = RecordingWriter(file)
    start = entries_of(recording)[0]
    writer.write(EntryKind.START, start.payload)
    seen = SeenExchanges()
    played = Replay(io.BytesIO(recording), seen, None)
    redaction = Redaction(decode_facts(start.payload)) if is_redacted else None
    played.pipeline.inputs = RecordingInputs(played.inputs, played.inputs.progress, writer, redaction, fail)
    played.run()
    return file.getvalue(), seen.exchanges


@pytest.mark.parametrize("path", RECORDINGS, ids=name)
def test_a_capture_gives_the_exchanges_that_were_on_the_wire(path: Path):
    """Expected is what the two ends of the connection did, not what an agent said of it."""
    played, exchanges, _ = replay(path.read_bytes())

    expected = json.loads(path.with_suffix(".json").read_text())
    found = {
        role: [facts_of(exchange) for exchange in exchanges if exchange.role.name.lower() == role] for role in expected
    }
    assert expected == found
    assert not played.is_cut


@pytest.mark.parametrize("path", RECORDINGS, ids=name)
def test_a_replay_gives_the_same_bytes_each_time(path: Path):
    recording = path.read_bytes()

    assert replay(recording)[2] == replay(recording)[2]


@pytest.mark.parametrize("path", RECORDINGS, ids=name)
def test_a_recording_of_a_replay_is_the_same_recording(path: Path):
    """So nothing that the pipeline asks for is missing from it."""
    recording = path.read_bytes()

    again, _ = recorded_again(recording, is_redacted=False)

    assert contents(recording) == contents(again)


def contents(recording: bytes) -> list[tuple[EntryKind, bytes]]:
    return [(entry.kind, entry.payload) for entry in entries_of(recording)]


@pytest.mark.parametrize("path", RECORDINGS, ids=name)
def test_a_redacted_recording_gives_the_same_exchanges_but_for_the_query(path: Path):
    """Framing, lengths and times stay; the service is named as before."""
    recording = path.read_bytes()
    redacted, exchanges = recorded_again(recording, is_redacted=True)

    played, found, _ = replay(redacted)

    assert [masked(exchange) for exchange in exchanges] == found
    assert not played.is_cut
    assert len(recording) // 2 < len(redacted)


def masked(exchange: Exchange) -> Exchange:
    return replaced(exchange, target=mask_line(b"GET " + exchange.target, True)[4:])


def test_a_redacted_recording_holds_no_secret():
    recording = SECRETS.read_bytes()
    assert recording.count(b"SECRET") == 16, "eight places, the last bytes of the stream among them, from both ends"

    redacted, _ = recorded_again(recording, is_redacted=True)

    assert b"SECRET" not in redacted
    for kept in (b"/login?token=xxxxxx&a=x HTTP", b"Authorization: xxxxxxxxxxxx\r\n", b"Set-Cookie: xxxxxxxxx\r\n"):
        assert redacted.count(kept) == 2


def test_every_capture_is_small_and_described():
    described = (CAPTURES / "README.md").read_text()

    assert RECORDINGS
    assert [] == [path.name for path in RECORDINGS if path.stat().st_size > MAX_BYTES]
    assert [] == [path.stem for path in RECORDINGS if f"`{path.stem}`" not in described]
    assert {path.stem for path in RECORDINGS} == {path.stem for path in CAPTURES.glob("*.json")}


def test_every_case_is_captured():
    """What the kernel tests write on the wire is also there to be replayed."""
    assert sorted(case.name for case in CASES) == [path.stem for path in RECORDINGS]


@pytest.mark.parametrize("path", [SECRETS, CAPTURES / "pipelined.recording"], ids=name)
def test_a_recording_that_ends_at_any_byte_is_replayed_up_to_there(path: Path):
    """Its writer may have been killed: what was whole is good, and the rest is told to be missing."""
    recording = path.read_bytes()
    whole = [facts_of(exchange) for exchange in replay(recording)[1]]
    entries = entries_of(recording)
    after_start, last = entries[1].offset, entries[-1].offset

    for end in range(after_start, len(recording)):
        played, exchanges, _ = replay(recording[:end])

        complete = [facts_of(exchange) for exchange in exchanges if exchange.status is not None]
        assert whole[: len(complete)] == complete
        assert played.is_cut == (end < last + 5 + 8)
        assert played.whole_bytes == max(
            at for at in (*(entry.offset for entry in entries), len(recording)) if at <= end
        )


def test_a_file_that_is_no_recording_is_refused():
    for data in (b"", b"otelebpf", b"\x7fELF" + bytes(100)):
        with pytest.raises(DecodeError, match="not a recording"):
            replay(data)


def test_a_recording_of_other_structs_is_refused_with_their_sizes():
    recording = bytearray(SECRETS.read_bytes())
    recording[10] += 1

    with pytest.raises(DecodeError, match="this agent reads"):
        replay(bytes(recording))


def test_spans_of_one_service_stand_in_one_group():
    spans = SpanFile()
    spans.put(b"", [b"1"])
    spans.put(b"", [b"2"])

    assert b"12" in spans.encode("0")
