"""Programs that are loaded when somebody asks for them: once, whether that goes well or not."""

from typing import Any

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import later_programs
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.programs import GO_PROGRAMS, LOOKUP_PROGRAMS, ProgramGroup
from otel_ebpf.probe.uprobes import UprobeForm

ARTIFACT: Any = "what they are loaded from"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[ProgramGroup]:
    made: list[ProgramGroup] = []

    def load_group(artifact: object, loaded: Loaded, form: UprobeForm, group: ProgramGroup) -> None:
        assert (ARTIFACT, UprobeForm.MULTI) == (artifact, form)
        made.append(group)
        if group is GO_PROGRAMS:
            raise ProbeError("the kernel refuses it")
        loaded.programs |= {row.function: 7 for row in group.rows}

    monkeypatch.setattr(later_programs, "load_group", load_group)
    return made


def test_a_group_is_loaded_with_the_first_of_its_programs(loads: list[ProgramGroup]) -> None:
    loaded = Loaded()
    later_programs.offer(loaded, UprobeForm.MULTI, LOOKUP_PROGRAMS, lambda: ARTIFACT)
    later_programs.offer(loaded, UprobeForm.MULTI, GO_PROGRAMS, lambda: ARTIFACT)

    assert (True, True, False) == tuple(
        loaded.has(name) for name in ("on_lookup_end", "on_goroutine_born", "on_tls_return")
    )
    assert [] == loads
    assert 7 == loaded.program("on_lookup_end") == loaded.program("on_lookup_entry")
    assert [LOOKUP_PROGRAMS] == loads


def test_what_cannot_be_loaded_is_tried_once(loads: list[ProgramGroup]) -> None:
    loaded = Loaded()
    later_programs.offer(loaded, UprobeForm.MULTI, GO_PROGRAMS, lambda: ARTIFACT)

    for name in ("on_round_trip", "on_goroutine_born", "on_goroutine_born"):
        with pytest.raises(ProbeError, match="the kernel refuses it"):
            loaded.program(name)
    assert [GO_PROGRAMS] == loads
