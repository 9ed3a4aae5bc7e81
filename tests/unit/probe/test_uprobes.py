"""Attaching to all places or to none, where the kernel takes one at a time."""

import os
from pathlib import Path

import pytest

from otel_ebpf.probe import bpf, uprobes
from otel_ebpf.probe.uprobes import Place, UprobeForm, attach, close_all


def test_what_was_attached_is_detached_when_a_later_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "type").write_text("9\n")
    monkeypatch.setattr(uprobes, "_PMU", tmp_path)
    asked: list[tuple[int, int]] = []

    def link(program: int, kind: int, config: int, path: str, offset: int, cookie: int) -> list[int]:
        asked.append((offset, cookie))
        if len(asked) == 3:
            raise OSError(22, "Invalid argument")
        return [os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)]

    monkeypatch.setattr(bpf, "link_perf_uprobe", link)
    before = os.listdir("/proc/self/fd")

    with pytest.raises(OSError, match="Invalid argument"):
        attach(UprobeForm.PERF, 5, "/lib/libssl.so.3", [Place(10, 1), Place(20, 2), Place(30, 3)])

    assert [(10, 1), (20, 2), (30, 3)] == asked
    assert before == os.listdir("/proc/self/fd")


def test_all_places_of_a_file_are_one_attachment_where_the_kernel_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def link(program: int, form: int, path: str, places: list[Place], *, at_return: bool) -> int:
        calls.append((program, form, path, places, at_return))
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(bpf, "link_uprobes", link)
    places = [Place(10, 1), Place(20, 2)]

    links = attach(UprobeForm.MULTI, 5, "/lib/libssl.so.3", places, at_return=True)
    close_all(links)

    assert 1 == len(links)
    assert [(5, UprobeForm.MULTI.value, "/lib/libssl.so.3", places, True)] == calls


def test_a_session_is_told_by_the_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs say whether a return is wanted; those of other forms have to say nothing."""
    calls: list[list[Place]] = []
    monkeypatch.setattr(
        bpf, "link_uprobes", lambda program, form, path, places, *, at_return: calls.append(places) or 3
    )

    attach(UprobeForm.SESSION, 5, "/srv/shop", [Place(10, 1)])
    attach(UprobeForm.MULTI, 5, "/srv/shop", [Place(10, 1)])

    assert [[Place(10, 1 << 63 | 1)], [Place(10, 1)]] == calls
