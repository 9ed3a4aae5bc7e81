"""Follows the goroutines of targets that are Go programs, so that the kernel side can tell which request is worked on.

In:   which processes are targets, which programs they run, what the inspector finds
Out:  attachments; entries of the map `go_programs`; which processes are followed
Owns: the attachments, each for as long as a target runs its file, and a moment longer

A program that cannot be read, or that bears only some of its probes, gets no entry: its calls have no parent.
"""

import errno
import mmap
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from otel_ebpf.errors import printable
from otel_ebpf.probe.go_findings import GoProgram, Layout
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.uprobes import Place, UprobeForm, attach, close_all

TARGET_IS_GO = 16
LINGER_TICKS = 10
MAX_TROUBLES = 256
_REPLACED = "it was replaced while processes run it: restart them"
_MARK = b"\xff Go buildinf:"
_BPF_NOEXIST = 1
_PROGRAM = struct.Struct("<QIII4x")  # struct go_program
_PID = struct.Struct("<I")
Finding = GoProgram | str | None
Patiently = Callable[[Callable[[], list[int]]], list[int]]


@dataclass(slots=True)
class Program:
    """A file that targets run, or have run."""

    found: GoProgram | None  # None: no Go program, or see `trouble`
    trouble: str = ""
    links: list[int] = field(default_factory=list)
    unused_ticks: int = 0


class GoWatch:
    """`form` None: goroutines are not followed, and nothing is looked at."""

    def __init__(
        self,
        loaded: Loaded,
        form: UprobeForm | None,
        procfs: Procfs,
        patiently: Patiently = lambda attaching: attaching(),
    ) -> None:
        """`patiently`: how to do what takes milliseconds; `look_at` must not be called meanwhile."""
        self._loaded = loaded
        self._form = form.of_instructions if form is not None and "on_goroutine_born" in loaded.programs else None
        self._procfs = procfs
        self._patiently = patiently
        self._inspector = FileInspector(_examine, _decode)
        self._programs: dict[MappedFile, Program] = {}
        self._waiting: dict[MappedFile, None] = {}  # in this order; the first one is in the inspector's hands
        self._run_by: dict[int, MappedFile] = {}  # of each target
        self._followed: set[int] = set()
        self._troubles: dict[str, None] = {}

    @property
    def troubles(self) -> list[str]:
        """For people: whose calls have no parent, and why."""
        return list(self._troubles)

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return sum(bool(program.links) for program in self._programs.values())

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._inspector.fileno()

    def target_flags(self, pid: int) -> int:
        return TARGET_IS_GO if pid in self._followed else 0

    def look_at(self, pid: int) -> None:
        """A new target, or one that runs another program. What `target_flags` says may change by it."""
        if self._form is None:
            return
        path = self._procfs.executable(pid)
        mapped = next((one for one in self._procfs.mapped_files(pid) if one.path == path), None)
        if mapped is None or self._run_by.get(pid, mapped) != mapped:
            self.forget(pid)
        if mapped is None:
            return
        self._run_by[pid] = mapped
        program = self._programs.get(mapped)
        if program is None:
            self._waiting[mapped] = None
        elif program.found is not None:
            self._follow(pid, program.found.layout)

    def inspect(self) -> None:
        while self._waiting and not self._inspector.is_busy:
            mapped = next(iter(self._waiting))
            file = self._open(mapped)
            if file is not None:
                self._inspector.start([file])
                os.close(file)
                return
            del self._waiting[mapped]  # whoever runs it next has it looked into

    def on_answer(self) -> list[int]:
        """What the inspector has found, when it is all there. Returns the processes to be looked at again."""
        if not self._inspector.receive():
            return []
        mapped = next(iter(self._waiting))
        del self._waiting[mapped]
        (finding,) = self._inspector.finish()
        program = self._programs[mapped] = Program(None)
        if isinstance(finding, GoProgram):
            self._attach(program, mapped, finding)
        elif finding is not None:
            program.trouble = finding
        if program.trouble and self._users(mapped):
            self._tell(f"calls of {printable(os.fsdecode(mapped.path))} have no parent: {program.trouble}")
        return self._users(mapped)

    def forget(self, pid: int) -> None:
        self._run_by.pop(pid, None)
        if pid in self._followed:
            self._followed.discard(pid)
            self._loaded.maps["go_programs"].delete(_PID.pack(pid))

    def tick(self) -> None:
        """Once a second. Nothing is given back at once: processes that live for a moment come one after the other."""
        for mapped, program in list(self._programs.items()):
            program.unused_ticks = 0 if self._users(mapped) else program.unused_ticks + 1
            if program.unused_ticks > LINGER_TICKS:
                close_all(program.links)
                del self._programs[mapped]

    def close(self) -> None:
        self._inspector.close()
        for program in self._programs.values():
            close_all(program.links)
            program.links = []

    def _users(self, mapped: MappedFile) -> list[int]:
        return [pid for pid, file in self._run_by.items() if file == mapped]

    def _open(self, mapped: MappedFile) -> int | None:
        ways = (self._procfs.open_mapped(pid, mapped) for pid in self._users(mapped))
        return next((file for file in ways if file is not None), None)

    def _attach(self, program: Program, mapped: MappedFile, found: GoProgram) -> None:
        """Goroutines that are born last of all: what writes for others is known as such before it can inherit anything."""
        form, programs = self._form, self._loaded.programs
        assert form is not None
        places = [("on_round_trip", found.round_trip), ("on_connection_write", found.write)]
        places = [*(place for place in places if place[1]), ("on_goroutine_born", found.born)]
        file = self._open(mapped)
        try:
            if file is None:
                raise FileNotFoundError(errno.ENOENT, _REPLACED)
            path = f"/proc/self/fd/{file}"
            for name, offset in places:
                attaching = partial(attach, form, programs[name], path, [Place(offset, 0)])
                program.links += self._patiently(attaching)
            program.found = found
        except OSError as error:
            close_all(program.links)
            program.links = []
            program.trouble = f"cannot attach: {error.strerror}"
        finally:
            if file is not None:
                os.close(file)

    def _follow(self, pid: int, layout: Layout) -> None:
        """The kernel keeps what it knows already."""
        try:
            value = _PROGRAM.pack(time.monotonic_ns(), *layout)
            self._loaded.maps["go_programs"].update(_PID.pack(pid), value, _BPF_NOEXIST)
        except FileExistsError:
            pass
        except OSError as error:
            self._tell(f"calls of process {pid} have no parent: no room for another Go program: {error.strerror}")
            return
        self._followed.add(pid)

    def _tell(self, line: str) -> None:
        if len(self._troubles) < MAX_TROUBLES:
            self._troubles[line] = None


def _examine(file: int) -> object:
    with suppress(ValueError, OSError), mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
        if content.find(_MARK) < 0:
            return None
    from otel_ebpf.probe import go_program  # here: the parent needs no decoder
    from otel_ebpf.probe.elf_image import UnreadableTlsError
    from otel_ebpf.probe.go_image import NoGoError

    try:
        with open(os.dup(file), "rb") as opened:
            return go_program.inspect(opened)
    except NoGoError:
        return None
    except UnreadableTlsError as error:
        return str(error)


def _decode(row: Any) -> Finding:
    if row is None or isinstance(row, str):
        return row
    layout, *places = row
    return GoProgram(Layout(*layout), *places)
