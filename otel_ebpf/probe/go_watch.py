"""Follows the goroutines of targets that are Go programs, so that the kernel side can tell which request is worked on.

In:   which processes are targets, which programs they run, what the inspector finds
Out:  attachments; entries of the map `go_programs`; which processes are followed
Owns: the attachments, each for as long as a target runs its file, and a moment longer

A program that cannot be read, or that bears only some of its probes, gets no entry: its calls have no parent.
"""

import mmap
import os
import struct
import time
from contextlib import suppress
from typing import Any

from otel_ebpf.probe.bpf import BPF_NOEXIST
from otel_ebpf.probe.go_findings import GoProgram, Layout
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import PID
from otel_ebpf.probe.probed_files import Patiently, ProbedFile, ProbedFiles
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.uprobes import Place, Probe, UprobeForm

TARGET_IS_GO = 16
_MARK = b"\xff Go buildinf:"
_PROGRAM = struct.Struct("<QIII4x")  # struct go_program
Finding = GoProgram | str | None


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
        inspector = FileInspector(_examine, _decode)
        self._files = ProbedFiles(inspector, loaded, form, "on_goroutine_born", procfs, patiently)
        self._loaded = loaded
        self._procfs = procfs
        self._followed: set[int] = set()

    @property
    def troubles(self) -> list[str]:
        """For people: whose calls have no parent, and why."""
        return self._files.troubles

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return self._files.probed_count

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._files.fileno()

    def target_flags(self, pid: int) -> int:
        return TARGET_IS_GO if pid in self._followed else 0

    def look_at(self, pid: int) -> None:
        """A new target, or one that runs another program. What `target_flags` says may change by it."""
        if self._files.form is None:
            return
        path = self._procfs.executable(pid)
        mapped = next((one for one in self._procfs.mapped_files(pid) if one.path == path), None)
        if [mapped] != [file.mapped for file in self._files.used_by(pid)]:
            self.forget(pid)
        if mapped is None:
            return
        found = self._files.use(pid, mapped).found
        if isinstance(found, GoProgram):
            self._follow(pid, found.layout)

    def inspect(self) -> None:
        self._files.inspect()

    def on_answer(self) -> list[int]:
        """What the inspector has found, when it is all there. Returns the processes to be looked at again."""
        return self._files.on_answer(self._attach_if_possible)

    def forget(self, pid: int) -> None:
        self._files.forget(pid)
        if pid in self._followed:
            self._followed.discard(pid)
            self._loaded.maps["go_programs"].delete(PID.pack(pid))

    def tick(self) -> None:
        """Once a second."""
        for file in self._files.tick():
            self._files.give_back(file)

    def close(self) -> None:
        self._files.close()

    def _attach_if_possible(self, file: ProbedFile[Finding]) -> None:
        """Goroutines that are born last of all: what writes for others is known as such before it can inherit anything."""
        found = file.found
        if not self._files.is_in_use(file):
            self._files.leave_to_next(file)
        elif isinstance(found, str):
            file.trouble = found
        elif found is not None:
            client = [("on_round_trip", found.round_trip), ("on_connection_write", found.write)]
            places = [*(place for place in client if place[1]), ("on_goroutine_born", found.born)]
            self._files.attach(file, *(Probe(program, [Place(offset, 0)]) for program, offset in places))
        if file.trouble:
            self._files.tell(f"calls of {file.path} have no parent: {file.trouble}")

    def _follow(self, pid: int, layout: Layout) -> None:
        """The kernel keeps what it knows already."""
        try:
            value = _PROGRAM.pack(time.monotonic_ns(), *layout)
            self._loaded.maps["go_programs"].update(PID.pack(pid), value, BPF_NOEXIST)
        except FileExistsError:
            pass
        except OSError as error:
            self._files.tell(f"calls of process {pid} have no parent: no room for another Go program: {error.strerror}")
            return
        self._followed.add(pid)


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
