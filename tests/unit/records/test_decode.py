"""Which samples are taken for what."""

import pytest

from otel_ebpf.records.decode import DecodeError, decode_lookup, decode_process_event, is_lookup
from otel_ebpf.records.kinds import Lookup, LookupKind, ProcessEvent, ProcessEventKind
from otel_ebpf.records.layouts import LOOKUP, PROCESS_EVENT


def sample(kind: int) -> bytes:
    """Of a process event, with nothing else said."""
    return PROCESS_EVENT.pack(*ProcessEvent._make(PROCESS_EVENT.unpack(bytes(PROCESS_EVENT.size)))._replace(kind=kind))


@pytest.mark.parametrize("kind", ProcessEventKind)
def test_every_kind_of_process_event_is_read(kind: ProcessEventKind) -> None:
    assert kind == decode_process_event(sample(kind), 0, PROCESS_EVENT.size).kind


@pytest.mark.parametrize("kind", [0, max(ProcessEventKind) + 1])
def test_no_other_kind_is(kind: int) -> None:
    with pytest.raises(DecodeError, match=f"a process event of kind {kind} at 0"):
        decode_process_event(sample(kind), 0, PROCESS_EVENT.size)


def lookup(**changes: int) -> bytes:
    """Of a lookup."""
    fields = {"kind": LookupKind.LOOKUP, "answers": 1, "start": 100, "end": 600, **changes}
    families, addresses = bytes([2]), bytes([10, 0, 0, 9])
    times = fields["start"], fields["end"]
    return LOOKUP.pack(
        fields["kind"], 1, 0, fields["answers"], 7, 8, 0, 77, 66, *times, families, addresses, b"shop.test"
    )


def test_a_lookup_is_read():
    told = decode_lookup(b"x" + lookup(), 1, LOOKUP.size)

    answers = ((2, bytes([10, 0, 0, 9]).ljust(16, b"\0")),)
    assert Lookup(True, False, 7, 8, 77, 66, 100, 600, answers, b"shop.test") == told


@pytest.mark.parametrize("changes", [{"kind": 4}, {"answers": 9}, {"end": 99}], ids=str)
def test_a_lookup_that_cannot_be_is_refused(changes: dict[str, int]):
    with pytest.raises(DecodeError):
        decode_lookup(lookup(**changes), 0, LOOKUP.size)


def test_a_lookup_of_another_size_is_refused():
    with pytest.raises(DecodeError):
        decode_lookup(lookup() + b"\0", 0, LOOKUP.size + 1)
    assert not is_lookup(lookup() + b"\0", 0, LOOKUP.size + 1)
