"""Which processes' contexts are followed, by what they map. The kernel's part is a list of attachments and two maps."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import greenlet
import pytest

from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.python_watch import TARGET_IS_PYTHON, TARGET_READS_OUTSIDE, PythonWatch
from otel_ebpf.probe.tls_watch import TARGET_WITHOUT_RETURN_PROBES
from otel_ebpf.probe.uprobes import UprobeForm
from tests.unit.probe.watch_stage import Processes as MappingProcesses
from tests.unit.probe.watch_stage import Stage as AnyStage
from tests.unit.probe.watch_stage import mapped, staged

CODE_SHIFT = 0x7F0000000000
MODULE = 3
INTERPRETER = struct.Struct("<QQIIIIQI4x")
GREENLET = Path(greenlet._greenlet.__file__)  # type: ignore[attr-defined]
PROGRAMS = ("on_context_made", "on_context_freed", "on_context_entered", "on_job_put", "on_job_taken")
Stage = AnyStage[PythonWatch]


class Processes(MappingProcesses):
    """In whose memory a module of greenlet has a number, or not yet."""

    module = MODULE

    def code_shift(self, pid: int, mapped: MappedFile) -> int | None:
        return CODE_SHIFT

    def memory(self, pid: int, address: int, count: int) -> bytes | None:
        return self.module.to_bytes(count, "little")


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
def stage(processes: Processes) -> Iterator[Stage]:
    with staged(
        lambda loaded, _: PythonWatch(loaded, UprobeForm.SESSION, processes),
        PROGRAMS,
        ("interpreters", "mapped_files"),
        processes,
    ) as made:
        yield made
        assert {UprobeForm.MULTI} >= {one.form for one in made.kernel.made}


def known(stage: Stage, pid: int) -> tuple[int, ...] | None:
    value = stage.maps["interpreters"].get(struct.pack("<I", pid))
    return None if value is None else INTERPRETER.unpack(value)


@pytest.fixture(scope="module")
def python() -> Path:
    """The file that holds the interpreter that runs this."""
    files = [Path(os.fsdecode(one.path)) for one in Procfs().mapped_files(os.getpid())]
    return next(path for path in files if "python3" in path.name and b"PyContext_CopyCurrent" in path.read_bytes())


def test_owners_have_room_once_an_interpreter_is_followed(stage: Stage, python: Path, tmp_path: Path) -> None:
    """It takes memory, which a host without Python is spared."""
    other = tmp_path / "other"
    other.write_bytes(b"no interpreter")
    stage.maps_file(1, other)
    stage.settle()
    assert set() == stage.kernel.provided

    stage.maps_file(2, python)
    stage.settle()
    assert {"owner_map"} == stage.kernel.provided


def test_without_memory_for_owners_calls_have_no_parent(stage: Stage, python: Path) -> None:
    """And it is said. The agent goes on."""
    stage.kernel.has_memory = False
    stage.maps_file(1, python)
    stage.settle()

    assert (None, 0) == (known(stage, 1), stage.watch.target_flags(1))
    why = "calls of process 1 have no parent: no room for another interpreter: Cannot allocate memory"
    assert [why] == stage.watch.troubles


def test_what_frees_contexts_is_watched_before_any_has_an_owner(stage: Stage, python: Path) -> None:
    stage.maps_file(1, python)
    stage.settle()

    assert ["on_context_freed", "on_context_made"] == stage.kernel.programs
    assert TARGET_IS_PYTHON == stage.watch.target_flags(1)
    found = known(stage, 1)
    assert found is not None
    assert CODE_SHIFT < found[1]


def test_a_file_has_its_probes_once_whoever_maps_it(stage: Stage, python: Path) -> None:
    stage.maps_file(1, python)
    stage.settle()
    first = stage.kernel.programs
    stage.maps_file(2, python)
    stage.settle()

    assert first == stage.kernel.programs
    assert TARGET_IS_PYTHON == stage.watch.target_flags(2)


def test_what_the_kernel_has_found_out_stays(stage: Stage, python: Path) -> None:
    """Whether a layout is proven, it knows better."""
    stage.maps_file(1, python)
    stage.settle()
    proven = INTERPRETER.pack(7, 8, 0, 0xE0, 1, 5, 0, 0)
    stage.maps["interpreters"][struct.pack("<I", 1)] = proven
    stage.look_at(1)

    assert INTERPRETER.unpack(proven) == known(stage, 1)


def test_a_process_that_maps_two_interpreters_is_not_followed(stage: Stage, python: Path, tmp_path: Path) -> None:
    other = tmp_path / python.name
    other.write_bytes(python.read_bytes())
    stage.maps_file(1, python, other)
    stage.settle()

    assert 0 == stage.watch.target_flags(1)
    assert None is known(stage, 1)
    assert ["calls of process 1 have no parent: it maps two interpreters"] == stage.watch.troubles


def test_an_interpreter_that_cannot_be_attached_to_is_named(stage: Stage, python: Path) -> None:
    stage.kernel.refused = PROGRAMS
    stage.maps_file(1, python)
    stage.settle()

    assert 0 == stage.watch.target_flags(1)
    assert [f"calls of {python} have no parent: cannot attach: Operation not supported"] == stage.watch.troubles


def test_a_file_that_merely_bears_the_name_is_none(stage: Stage, tmp_path: Path) -> None:
    """The small program that starts a shared interpreter, or nothing of Python at all."""
    starter = tmp_path / "python3.11"
    starter.write_bytes(Path("/bin/true").read_bytes())
    stage.maps_file(1, starter)
    stage.settle()

    assert (0, [], []) == (stage.watch.target_flags(1), stage.kernel.programs, stage.watch.troubles)


def test_greenlet_is_followed_once_its_storage_has_a_number(stage: Stage, processes: Processes, python: Path) -> None:
    """The loader writes it a moment after the file was mapped."""
    processes.module = 0
    stage.maps_file(1, python, GREENLET)
    stage.settle()
    before = known(stage, 1)
    processes.module = MODULE
    stage.look_at(*stage.watch.tick())
    after = known(stage, 1)

    assert before is not None
    assert after is not None
    assert (0, 0) == before[6:]
    assert MODULE == after[7]
    assert before[:6] == after[:6]
    assert TARGET_IS_PYTHON | TARGET_WITHOUT_RETURN_PROBES == stage.watch.target_flags(1)


def test_uvloop_alone_has_what_enters_contexts_watched(stage: Stage, python: Path, tmp_path: Path) -> None:
    loop = tmp_path / "uvloop" / "loop.cpython-311-x86_64-linux-gnu.so"
    loop.parent.mkdir()
    loop.write_bytes(b"")
    stage.maps_file(1, python)
    stage.settle()
    assert "on_context_entered" not in stage.kernel.programs
    stage.maps_file(1, loop)
    stage.settle()

    assert "on_context_entered" in stage.kernel.programs
    assert TARGET_IS_PYTHON | TARGET_READS_OUTSIDE == stage.watch.target_flags(1)


def test_probes_leave_a_moment_after_the_last_process(stage: Stage, python: Path) -> None:
    stage.maps_file(1, python)
    stage.settle()
    stage.exit(1)
    stage.watch.tick()
    assert stage.kernel.programs
    stage.wait()

    assert [] == stage.kernel.programs
    assert {} == stage.maps["interpreters"]
    assert {} == stage.maps["mapped_files"]


def test_at_the_end_nobody_has_owners_before_the_probes_leave(stage: Stage, python: Path) -> None:
    """Sockets are watched a moment longer, and contexts made meanwhile are not: one would be taken for that before it."""
    stage.maps_file(1, python)
    stage.settle()

    stage.watch.close()

    assert None is known(stage, 1)


def test_another_program_has_nothing_of_the_one_before(stage: Stage, python: Path) -> None:
    """exec"""
    stage.maps_file(1, python)
    stage.settle()
    stage.processes.mapped[1] = [mapped(Path("/bin/true"))]
    stage.look_at(1)

    assert (0, None) == (stage.watch.target_flags(1), known(stage, 1))


def test_an_interpreter_that_was_replaced_is_named(stage: Stage, tmp_path: Path) -> None:
    """What its processes run cannot be reached any more."""
    path = tmp_path / "python3.11"
    path.write_bytes(b"the one that runs")
    stage.processes.mapped[1] = [mapped(path)]
    (tmp_path / "new").write_bytes(b"its successor")
    (tmp_path / "new").rename(path)
    stage.look_at(1)

    assert [f"calls of {path} have no parent: it was replaced while processes run it: restart them"] == (
        stage.watch.troubles
    )


def test_of_a_process_that_has_ended_meanwhile_nothing_is_said(stage: Stage, python: Path) -> None:
    stage.processes.mapped[1] = [mapped(python)]
    stage.watch.look_at(1)
    stage.processes.mapped.clear()
    stage.look_at()

    assert ([], []) == (stage.kernel.programs, stage.watch.troubles)
