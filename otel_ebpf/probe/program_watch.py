"""Follows targets by the programs that they run, each kind of program by probes in its own file.

In:   which processes are targets, which programs they run, what the inspector finds
Out:  attachments; entries of a map of processes that run such a program; which processes are followed
Owns: the attachments, each for as long as a target runs its file, and a moment longer

A program that cannot be read, or that bears only some of its probes, gets no entry: its calls have no parent.
"""

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

from otel_ebpf.probe.file_watch import FileWatch
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import PID
from otel_ebpf.probe.probed_files import Patiently, ProbedFile, at_once
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.uprobes import UprobeForm

Program = TypeVar("Program")


class ProgramWatch(FileWatch[Program | str | None]):
    name: ClassVar[str]  # for people
    flag: ClassVar[int]  # of a target that is followed
    entries: ClassVar[str]  # the map

    def __init__(self, loaded: Loaded, form: UprobeForm | None, procfs: Procfs, patiently: Patiently = at_once) -> None:
        super().__init__(loaded, form, procfs, patiently)
        self._followed: set[int] = set()

    @abstractmethod
    def inspector(self) -> FileInspector[Program | str | None]:
        """It finds the program; why that cannot be followed; or None, where it is another kind of file."""

    @abstractmethod
    def attach(self, file: ProbedFile[Program | str | None]) -> None:
        """By what was found in it, or leaves its trouble there."""

    @abstractmethod
    def value_of(self, program: Program) -> bytes:
        """Of the map: what the kernel's side has to know of a process that runs it now."""

    def may_be(self, _: MappedFile) -> bool:
        """By its name."""
        return True

    @property
    def followed(self) -> list[int]:
        return list(self._followed)

    def target_flags(self, pid: int) -> int:
        return self.flag if pid in self._followed else 0

    def look_at(self, pid: int) -> None:
        """A new target, or one that runs another program. What `target_flags` says may change by it."""
        if self.files.form is None:
            return
        path = self.procfs.executable(pid)
        mapped = next((one for one in self.procfs.mapped_files(pid) if one.path == path and self.may_be(one)), None)
        if [mapped] != [file.mapped for file in self.files.used_by(pid)]:
            self.forget(pid)
        if mapped is None:
            return
        found = self.files.use(pid, mapped).found
        if found is None or isinstance(found, str):
            return
        if self.files.follow(pid, self.entries, self.value_of(found), f"{self.name} program"):
            self._followed.add(pid)

    def inspect(self) -> None:
        self.files.inspect()

    def on_answer(self) -> list[int]:
        """What the inspector has found, when it is all there. Returns the processes to be looked at again."""
        return self.files.on_answer(self._attach_if_possible)

    def forget(self, pid: int) -> None:
        super().forget(pid)
        if pid in self._followed:
            self._followed.discard(pid)
            self.loaded.maps[self.entries].delete(PID.pack(pid))

    def tick(self) -> None:
        """Once a second."""
        for file in self.files.tick():
            self.files.give_back(file)

    def _attach_if_possible(self, file: ProbedFile[Any]) -> None:
        if self.files.is_in_use(file):
            self.attach(file)
        else:
            self.files.leave_to_next(file)
        if file.trouble:
            self.files.tell(f"calls of {file.path} have no parent: {file.trouble}")
