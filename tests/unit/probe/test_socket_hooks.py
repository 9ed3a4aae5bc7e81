from pathlib import Path

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import socket_hooks
from otel_ebpf.probe.kprobes import KprobeEvents
from otel_ebpf.probe.programs import SocketBackend
from otel_ebpf.probe.socket_hooks import choose_hooks


@pytest.fixture
def kprobes_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_events() -> KprobeEvents:
        raise ProbeError("no kprobe on tcp_close: it is on a list", "Use another kernel.")

    monkeypatch.setattr(socket_hooks, "make_events", make_events)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KprobeEvents:
    (tmp_path / "kprobe_events").touch()
    made = KprobeEvents(tmp_path, {})
    monkeypatch.setattr(socket_hooks, "make_events", lambda: made)
    return made


@pytest.mark.usefixtures("kprobes_are_missing")
def test_where_one_kprobe_cannot_be_had_the_tracepoint_takes_the_place_of_all_and_says_why():
    hooks = choose_hooks("auto")

    assert SocketBackend.TRACEPOINT is hooks.backend
    assert "no kprobe on tcp_close: it is on a list" == hooks.why
    assert not hooks.sees_every_call


@pytest.mark.usefixtures("kprobes_are_missing")
def test_kprobes_that_are_demanded_and_cannot_be_had_are_an_error():
    with pytest.raises(ProbeError, match="tcp_close"):
        choose_hooks("kprobe")


@pytest.mark.parametrize("wanted", ["auto", "kprobe"])
def test_where_kprobes_can_be_had_they_are_chosen(wanted: str, events: KprobeEvents):
    hooks = choose_hooks(wanted)

    assert (SocketBackend.KPROBE, events) == (hooks.backend, hooks.events)
    assert hooks.sees_every_call
    assert ("OTEL_EBPF_SOCKET_BACKEND" in hooks.why) == (wanted == "kprobe")


def test_where_the_tracepoint_is_asked_for_no_kprobe_is_made(events: KprobeEvents):
    hooks = choose_hooks("tracepoint")

    assert (SocketBackend.TRACEPOINT, None) == (hooks.backend, hooks.events)
