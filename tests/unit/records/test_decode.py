"""Which samples are taken for what."""

import pytest

from otel_ebpf.records.decode import DecodeError, decode_process_event
from otel_ebpf.records.kinds import ProcessEvent, ProcessEventKind
from otel_ebpf.records.layouts import PROCESS_EVENT


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
