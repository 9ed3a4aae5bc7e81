"""Which processes' goroutines are followed, by what they run. The kernel's part is a list of attachments and a map."""

import os
import select
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otel_ebpf.probe import go_watch
from otel_ebpf.probe.go_findings import GoProgram, Layout
from otel_ebpf.probe.go_watch import LINGER_TICKS, TARGET_IS_GO, GoWatch
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.uprobes import Place, UprobeForm

FOUND = GoProgram(Layout(152, 280, 304), 1000, 2000, 3000)
PROGRAM = struct.Struct("<QIII4x")


class Map(dict[bytes, bytes]):
    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:  # type: ignore[override]
        if flags and key in self:
            raise FileExistsError
        self[key] = value


class Processes(Procfs):
    """What each runs is said by the test; the files are real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.run: dict[int, MappedFile] = {}

    def executable(self, pid: int) -> bytes | None:
        return self.run[pid].path if pid in self.run else None

    def mapped_files(self, pid: int) -> list[MappedFile]:
        return [self.run[pid]] if pid in self.run else []

    def path_in_root(self, pid: int, path: bytes) -> bytes:
        return path if pid in self.run else b"/nonexistent"


class Stage:
    """A file's content says what the inspector finds in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.processes, self.programs = folder, Processes(), Map()
        self.attached: list[tuple[str, int, int]] = []  # program, place, descriptor
        self.refused = ""
        monkeypatch.setattr(go_watch, "attach", self._attach)
        names = ("on_goroutine_born", "on_round_trip", "on_connection_write")
        loaded: Any = SimpleNamespace(maps={"go_programs": self.programs}, programs={name: name for name in names})
        self.watch = GoWatch(loaded, UprobeForm.SESSION, self.processes)
        findings = {b"go": FOUND, b"without a client": FOUND._replace(round_trip=0, write=0), b"odd": "it is odd"}
        self.watch._inspector = FileInspector(lambda file: findings.get(os.read(file, 100)), go_watch._decode)

    def _attach(self, form: UprobeForm, program: str, path: str, places: Sequence[Place]) -> list[int]:
        assert form is UprobeForm.MULTI
        if program == self.refused:
            raise OSError(95, "Operation not supported")
        descriptor = os.memfd_create("attachment")
        self.attached += [(program, place.offset, descriptor) for place in places]
        return [descriptor]

    @property
    def probes(self) -> list[tuple[str, int]]:
        return [(name, place) for name, place, one in self.attached if os.path.lexists(f"/proc/self/fd/{one}")]

    def runs(self, pid: int, content: bytes) -> Path:
        """And the agent is told of it, and waits for what there is to find out."""
        path = self.folder / content.decode()
        path.write_bytes(content)
        self.processes.run[pid] = MappedFile(path.stat().st_ino, path.stat().st_dev, os.fsencode(path))
        self.look_at(pid)
        return path

    def look_at(self, pid: int) -> None:
        self.watch.look_at(pid)
        self.watch.inspect()
        while (answer := self.watch.fileno()) >= 0:
            assert select.select([answer], [], [], 60)[0]
            for user in self.watch.on_answer():
                self.watch.look_at(user)

    def known(self, pid: int) -> tuple[int, ...] | None:
        value = self.programs.get(struct.pack("<I", pid))
        return None if value is None else PROGRAM.unpack(value)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """Nothing that was opened is left in the end."""
    before = len(os.listdir("/proc/self/fd"))
    made = Stage(monkeypatch, tmp_path)
    yield made
    made.watch.close()
    assert before == len(os.listdir("/proc/self/fd"))


def test_what_writes_for_others_is_watched_before_any_goroutine_inherits(stage: Stage) -> None:
    stage.runs(1, b"go")

    assert [("on_round_trip", 2000), ("on_connection_write", 3000), ("on_goroutine_born", 1000)] == stage.probes
    assert TARGET_IS_GO == stage.watch.target_flags(1)
    known = stage.known(1)
    assert known is not None
    assert (152, 280, 304) == known[1:]


def test_a_program_without_net_http_has_its_goroutines_followed(stage: Stage) -> None:
    """fasthttp has a client of its own."""
    stage.runs(1, b"without a client")

    assert [("on_goroutine_born", 1000)] == stage.probes
    assert TARGET_IS_GO == stage.watch.target_flags(1)


def test_a_file_has_its_probes_once_and_each_process_a_number_of_its_own(stage: Stage) -> None:
    stage.runs(1, b"go")
    stage.runs(2, b"go")

    assert 3 == len(stage.probes)
    one, other = stage.known(1), stage.known(2)
    assert one is not None
    assert other is not None
    assert one[0] != other[0]


def test_what_the_kernel_knows_stays(stage: Stage) -> None:
    stage.runs(1, b"go")
    before = stage.known(1)
    stage.look_at(1)

    assert before == stage.known(1)


def test_a_program_that_lacks_one_probe_has_none(stage: Stage) -> None:
    """Half of them would tell wrong parents."""
    stage.refused = "on_goroutine_born"
    path = stage.runs(1, b"go")

    assert ([], 0, None) == (stage.probes, stage.watch.target_flags(1), stage.known(1))
    assert [f"calls of {path} have no parent: cannot attach: Operation not supported"] == stage.watch.troubles


def test_what_cannot_be_read_is_named_and_another_language_is_not(stage: Stage) -> None:
    path = stage.runs(1, b"odd")
    stage.runs(2, b"python")

    assert [f"calls of {path} have no parent: it is odd"] == stage.watch.troubles
    assert ([], 0, 0) == (stage.probes, stage.watch.target_flags(1), stage.watch.target_flags(2))


def test_another_program_has_nothing_of_the_one_before(stage: Stage) -> None:
    """exec"""
    stage.runs(1, b"go")
    stage.runs(1, b"python")

    assert (0, None) == (stage.watch.target_flags(1), stage.known(1))


def test_probes_leave_a_moment_after_the_last_process(stage: Stage) -> None:
    stage.runs(1, b"go")
    stage.processes.run.clear()
    stage.watch.forget(1)
    stage.watch.tick()
    assert stage.probes
    for _ in range(LINGER_TICKS + 1):
        stage.watch.tick()

    assert ([], {}) == (stage.probes, stage.programs)


def test_of_a_process_that_has_ended_meanwhile_nothing_is_said(stage: Stage) -> None:
    path = stage.folder / "go"
    path.write_bytes(b"go")
    stage.processes.run[1] = MappedFile(path.stat().st_ino, path.stat().st_dev, os.fsencode(path))
    stage.watch.look_at(1)
    stage.watch.inspect()
    stage.processes.run.clear()
    stage.watch.forget(1)
    stage.look_at(2)

    assert ([], [], {}) == (stage.probes, stage.watch.troubles, stage.programs)
