"""Which processes' contexts are followed, by what they map. The kernel's part is a list of attachments and two maps."""

import os
import select
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import greenlet
import pytest

from otel_ebpf.probe import python_watch
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.python_watch import LINGER_TICKS, TARGET_IS_PYTHON, TARGET_READS_OUTSIDE, PythonWatch
from otel_ebpf.probe.tls_watch import TARGET_WITHOUT_RETURN_PROBES
from otel_ebpf.probe.uprobes import Place, UprobeForm

CODE_SHIFT = 0x7F0000000000
MODULE = 3
INTERPRETER = struct.Struct("<QQIIIIQI4x")
GREENLET = Path(greenlet._greenlet.__file__)  # type: ignore[attr-defined]


class Map(dict[bytes, bytes]):
    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def lookup(self, key: bytes) -> bytes | None:
        return self.get(key)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:  # type: ignore[override]
        if flags and key in self:
            raise FileExistsError
        self[key] = value


class Processes(Procfs):
    """What each has mapped is said by the test; the files are real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped: dict[int, list[MappedFile]] = {}
        self.module = MODULE

    def mapped_files(self, pid: int) -> list[MappedFile]:
        return list(self.mapped.get(pid, []))

    def path_in_root(self, pid: int, path: bytes) -> bytes:
        return path if pid in self.mapped else b"/nonexistent"

    def code_shift(self, pid: int, mapped: MappedFile) -> int | None:
        return CODE_SHIFT

    def memory(self, pid: int, address: int, count: int) -> bytes | None:
        return self.module.to_bytes(count, "little")


class Stage:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs: list[tuple[str, int]] = []  # as they were attached, each with its descriptor
        self.refuses = False
        self.processes = Processes()
        self.maps = {"interpreters": Map(), "mapped_files": Map()}
        monkeypatch.setattr(python_watch, "attach", self._attach)
        names = ("on_context_made", "on_context_freed", "on_context_entered", "on_job_put", "on_job_taken")
        loaded: Any = SimpleNamespace(maps=self.maps, programs={name: name for name in names})
        self.watch = PythonWatch(loaded, UprobeForm.SESSION, self.processes)

    def _attach(self, form: UprobeForm, program: str, path: str, places: Sequence[Place]) -> list[int]:
        assert form is UprobeForm.MULTI
        assert places
        if self.refuses:
            raise OSError(95, "Operation not supported")
        descriptor = os.memfd_create(f"attachment-{len(self.programs)}")
        self.programs.append((program, descriptor))
        return [descriptor]

    @property
    def attached(self) -> list[str]:
        names = {f"/memfd:attachment-{at} (deleted)": name for at, (name, _) in enumerate(self.programs)}
        links = [os.readlink(f"/proc/self/fd/{one}") for _, one in self.programs if is_open(one)]
        return [names[link] for link in dict.fromkeys(links) if link in names]

    def maps_file(self, pid: int, *paths: Path) -> None:
        """And the agent is told of it, and waits for what there is to find out."""
        self.processes.mapped.setdefault(pid, []).extend(mapped(path) for path in paths)
        self.look_at(pid)

    def look_at(self, *pids: int) -> None:
        for pid in pids:
            self.watch.look_at(pid)
        while (answer := self.watch.fileno()) >= 0:
            assert select.select([answer], [], [], 60)[0]
            for pid in self.watch.on_answer():
                self.watch.look_at(pid)

    def known(self, pid: int) -> tuple[int, ...] | None:
        value = self.maps["interpreters"].get(struct.pack("<I", pid))
        return None if value is None else INTERPRETER.unpack(value)


def is_open(descriptor: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def mapped(path: Path) -> MappedFile:
    return MappedFile(path.stat().st_ino, path.stat().st_dev, os.fsencode(path))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Nothing that was opened is left in the end."""
    before = len(os.listdir("/proc/self/fd"))
    made = Stage(monkeypatch)
    yield made
    made.watch.close()
    assert before == len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def python() -> Path:
    """The file that holds the interpreter that runs this."""
    files = [Path(os.fsdecode(one.path)) for one in Procfs().mapped_files(os.getpid())]
    return next(path for path in files if "python3" in path.name and b"PyContext_CopyCurrent" in path.read_bytes())


def test_what_frees_contexts_is_watched_before_any_has_an_owner(stage: Stage, python: Path) -> None:
    stage.maps_file(1, python)

    assert ["on_context_freed", "on_context_made"] == stage.attached
    assert TARGET_IS_PYTHON == stage.watch.target_flags(1)
    known = stage.known(1)
    assert known is not None
    assert CODE_SHIFT < known[1]


def test_a_file_has_its_probes_once_whoever_maps_it(stage: Stage, python: Path) -> None:
    stage.maps_file(1, python)
    first = stage.attached
    stage.maps_file(2, python)

    assert first == stage.attached
    assert TARGET_IS_PYTHON == stage.watch.target_flags(2)


def test_what_the_kernel_has_found_out_stays(stage: Stage, python: Path) -> None:
    """Whether a layout is proven, it knows better."""
    stage.maps_file(1, python)
    proven = INTERPRETER.pack(7, 8, 0, 0xE0, 1, 5, 0, 0)
    stage.maps["interpreters"][struct.pack("<I", 1)] = proven
    stage.look_at(1)

    assert INTERPRETER.unpack(proven) == stage.known(1)


def test_a_process_that_maps_two_interpreters_is_not_followed(stage: Stage, python: Path, tmp_path: Path) -> None:
    other = tmp_path / python.name
    other.write_bytes(python.read_bytes())
    stage.maps_file(1, python, other)

    assert 0 == stage.watch.target_flags(1)
    assert None is stage.known(1)
    assert ["calls of process 1 have no parent: it maps two interpreters"] == stage.watch.troubles


def test_an_interpreter_that_cannot_be_attached_to_is_named(stage: Stage, python: Path) -> None:
    stage.refuses = True
    stage.maps_file(1, python)

    assert 0 == stage.watch.target_flags(1)
    assert [f"calls of {python} have no parent: cannot attach: Operation not supported"] == stage.watch.troubles


def test_a_file_that_merely_bears_the_name_is_none(stage: Stage, tmp_path: Path) -> None:
    """The small program that starts a shared interpreter, or nothing of Python at all."""
    starter = tmp_path / "python3.11"
    starter.write_bytes(Path("/bin/true").read_bytes())
    stage.maps_file(1, starter)

    assert (0, [], []) == (stage.watch.target_flags(1), stage.attached, stage.watch.troubles)


def test_greenlet_is_followed_once_its_storage_has_a_number(stage: Stage, python: Path) -> None:
    """The loader writes it a moment after the file was mapped."""
    stage.processes.module = 0
    stage.maps_file(1, python, GREENLET)
    before = stage.known(1)
    stage.processes.module = MODULE
    stage.look_at(*stage.watch.tick())
    after = stage.known(1)

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
    assert "on_context_entered" not in stage.attached
    stage.maps_file(1, loop)

    assert "on_context_entered" in stage.attached
    assert TARGET_IS_PYTHON | TARGET_READS_OUTSIDE == stage.watch.target_flags(1)


def test_probes_leave_a_moment_after_the_last_process(stage: Stage, python: Path) -> None:
    stage.maps_file(1, python)
    stage.processes.mapped.pop(1)
    stage.watch.forget(1)
    stage.watch.tick()
    assert stage.attached
    for _ in range(LINGER_TICKS + 1):
        stage.watch.tick()

    assert [] == stage.attached
    assert {} == stage.maps["interpreters"]
    assert {} == stage.maps["mapped_files"]


def test_at_the_end_nobody_has_owners_before_the_probes_leave(stage: Stage, python: Path) -> None:
    """Sockets are watched a moment longer, and contexts made meanwhile are not: one would be taken for that before it."""
    stage.maps_file(1, python)

    stage.watch.close()

    assert None is stage.known(1)


def test_another_program_has_nothing_of_the_one_before(stage: Stage, python: Path) -> None:
    """exec"""
    stage.maps_file(1, python)
    stage.processes.mapped[1] = [mapped(Path("/bin/true"))]
    stage.look_at(1)

    assert (0, None) == (stage.watch.target_flags(1), stage.known(1))


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

    assert ([], []) == (stage.attached, stage.watch.troubles)
