"""Which processes' goroutines are followed, by what they run. The kernel's part is a list of attachments and a map."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.probe import go_watch
from otel_ebpf.probe.go_findings import GoProgram, Layout
from otel_ebpf.probe.go_watch import TARGET_IS_GO, GoWatch
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.uprobes import UprobeForm
from tests.unit.probe.watch_stage import Stage as AnyStage
from tests.unit.probe.watch_stage import staged

FOUND = GoProgram(Layout(152, 280, 304, 248), 1000, 2000, 3000, 4000)
# A file's content says what the inspector finds in it.
FINDINGS = {b"go": FOUND, b"without a client": FOUND._replace(round_trip=0, write=0, handled=0), b"odd": "it is odd"}
PROGRAM = struct.Struct("<QIIII8x")
PROGRAMS = ("on_goroutine_born", "on_round_trip", "on_connection_write", "on_request_handled")
Stage = AnyStage[GoWatch]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    inspector = FileInspector(lambda file: FINDINGS.get(os.read(file, 100)), go_watch._decode)
    monkeypatch.setattr(go_watch, "FileInspector", lambda *_: inspector)
    with staged(
        lambda loaded, processes: GoWatch(loaded, UprobeForm.SESSION, processes), PROGRAMS, ("go_programs",)
    ) as made:
        yield made
        assert {UprobeForm.MULTI} >= {one.form for one in made.kernel.made}


def probes(stage: Stage) -> list[tuple[str, int]]:
    return [(one.program, place.offset) for one in stage.kernel.attached for place in one.places]


def runs(stage: Stage, pid: int, program: Path) -> None:
    """Now, instead of what it ran before."""
    stage.processes.mapped.pop(pid, None)
    stage.maps_file(pid, program)
    stage.settle()


@pytest.fixture
def go(tmp_path: Path) -> Path:
    return made(tmp_path, b"go")


def made(folder: Path, content: bytes) -> Path:
    path = folder / content.decode()
    path.write_bytes(content)
    return path


def known(stage: Stage, pid: int) -> tuple[int, ...] | None:
    value = stage.maps["go_programs"].get(struct.pack("<I", pid))
    return None if value is None else PROGRAM.unpack(value)


def test_what_writes_for_others_is_watched_before_any_goroutine_inherits(stage: Stage, go: Path) -> None:
    runs(stage, 1, go)

    written = [("on_round_trip", 2000), ("on_connection_write", 3000)]
    assert [*written, ("on_request_handled", 4000), ("on_goroutine_born", 1000)] == probes(stage)
    assert TARGET_IS_GO == stage.watch.target_flags(1)
    found = known(stage, 1)
    assert found is not None
    assert (152, 280, 304, 248) == found[1:]


def test_owners_have_room_once_a_program_is_followed(stage: Stage, go: Path, tmp_path: Path) -> None:
    """It takes memory, which a host that runs nothing of the kind is spared."""
    runs(stage, 1, made(tmp_path, b"something else"))
    assert set() == stage.kernel.provided

    runs(stage, 2, go)
    assert {"owner_map"} == stage.kernel.provided


def test_without_memory_for_owners_calls_have_no_parent(stage: Stage, go: Path) -> None:
    """And it is said. The agent goes on."""
    stage.kernel.has_memory = False
    runs(stage, 1, go)

    assert (None, 0) == (known(stage, 1), stage.watch.target_flags(1))
    why = "calls of process 1 have no parent: no room for another Go program: Cannot allocate memory"
    assert [why] == stage.watch.troubles


def test_a_program_without_net_http_has_its_goroutines_followed(stage: Stage, tmp_path: Path) -> None:
    """fasthttp has a client of its own."""
    runs(stage, 1, made(tmp_path, b"without a client"))

    assert [("on_goroutine_born", 1000)] == probes(stage)
    assert TARGET_IS_GO == stage.watch.target_flags(1)


def test_a_file_has_its_probes_once_and_each_process_a_number_of_its_own(stage: Stage, go: Path) -> None:
    runs(stage, 1, go)
    runs(stage, 2, go)

    assert 4 == len(probes(stage))
    one, other = known(stage, 1), known(stage, 2)
    assert one is not None
    assert other is not None
    assert one[0] != other[0]


def test_what_the_kernel_knows_stays(stage: Stage, go: Path) -> None:
    runs(stage, 1, go)
    before = known(stage, 1)
    stage.look_at(1)

    assert before == known(stage, 1)


def test_a_program_that_lacks_one_probe_has_none(stage: Stage, go: Path) -> None:
    """Half of them would tell wrong parents."""
    stage.kernel.refused = ("on_goroutine_born",)
    runs(stage, 1, go)

    assert ([], 0, None) == (probes(stage), stage.watch.target_flags(1), known(stage, 1))
    assert [f"calls of {go} have no parent: cannot attach: Operation not supported"] == stage.watch.troubles


def test_programs_that_cannot_be_loaded_are_told_of_the_file_that_needs_them(stage: Stage, go: Path) -> None:
    stage.kernel.unloadable = PROGRAMS
    runs(stage, 1, go)

    assert ([], 0, None) == (probes(stage), stage.watch.target_flags(1), known(stage, 1))
    why = "the kernel refuses the program on_round_trip"
    assert [f"calls of {go} have no parent: {why}"] == stage.watch.troubles


def test_what_cannot_be_read_is_named_and_another_language_is_not(stage: Stage, tmp_path: Path) -> None:
    odd = made(tmp_path, b"odd")
    runs(stage, 1, odd)
    runs(stage, 2, made(tmp_path, b"python"))

    assert [f"calls of {odd} have no parent: it is odd"] == stage.watch.troubles
    assert ([], 0, 0) == (probes(stage), stage.watch.target_flags(1), stage.watch.target_flags(2))


def test_another_program_has_nothing_of_the_one_before(stage: Stage, go: Path, tmp_path: Path) -> None:
    """exec"""
    runs(stage, 1, go)
    runs(stage, 1, made(tmp_path, b"python"))

    assert (0, None) == (stage.watch.target_flags(1), known(stage, 1))


def test_probes_leave_a_moment_after_the_last_process(stage: Stage, go: Path) -> None:
    runs(stage, 1, go)
    stage.exit(1)
    stage.watch.tick()
    assert probes(stage)
    stage.wait()

    assert ([], {}) == (probes(stage), stage.maps["go_programs"])


def test_of_a_process_that_has_ended_meanwhile_nothing_is_said(stage: Stage, go: Path) -> None:
    stage.maps_file(1, go)
    stage.watch.inspect()
    stage.exit(1)
    stage.look_at(2)

    assert ([], [], {}) == (probes(stage), stage.watch.troubles, stage.maps["go_programs"])


def test_a_program_whose_first_process_has_ended_meanwhile_is_looked_into_for_the_next(stage: Stage, go: Path) -> None:
    """One that lives for a moment must not hide those that come behind it."""
    stage.maps_file(1, go)
    stage.watch.inspect()
    stage.exit(1)
    stage.settle()
    runs(stage, 2, go)

    assert (4, TARGET_IS_GO) == (len(probes(stage)), stage.watch.target_flags(2))
