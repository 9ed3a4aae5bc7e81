"""Keeps probes where one function begins and ends, in those files that targets have mapped and that may have it: C libraries
with getaddrinfo.

In:   which processes are targets, what they have mapped, what the inspector finds
Out:  attachments
Owns: the attachments, each for as long as a target uses its file, and a moment longer

A file is attached to once, whoever maps it. Where the function is in it is found out by a child without rights. No return
probes, so processes that switch stacks are in no danger.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from otel_ebpf.probe.file_watch import FileWatch
from otel_ebpf.probe.function_places import FunctionEnd, FunctionPlaces
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.probed_files import REPLACED, ProbedFile, tell_every_mapping, tell_first_mapping
from otel_ebpf.probe.procfs import MappedFile
from otel_ebpf.probe.uprobes import Place, Probe

MAX_FILES = 256  # of one kind that are remembered: one for each image of containers
WatchedFile = ProbedFile[FunctionPlaces | None]


@dataclass(frozen=True, slots=True)
class WatchedFunction:
    name: str
    at_begin: str  # programs
    at_end: str
    is_in: Callable[[MappedFile], bool]
    trouble: str  # for people: {path}, {why}
    too_many: str  # the same: {most} files


def function_inspector(function: WatchedFunction) -> FileInspector[FunctionPlaces | None]:
    """None: where it begins and ends could not be made out."""
    return FileInspector(lambda file: _examine(file, function), _decode)


class FunctionWatch(FileWatch[FunctionPlaces | None]):
    function: ClassVar[WatchedFunction]
    _has_too_many = False

    def inspector(self) -> FileInspector[FunctionPlaces | None]:
        return function_inspector(self.function)

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return self.files.probed_count

    @property
    def troubles(self) -> list[str]:
        """For people: what is not seen, and why."""
        found = [
            self.function.trouble.format(path=file.path, why=file.trouble)
            for file in self.files.known.values()
            if file.trouble
        ]
        if self._has_too_many:
            found.append(self.function.too_many.format(most=MAX_FILES))
        return found

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something."""
        if self.files.form is None:
            return
        for mapped in filter(self.function.is_in, self.procfs.mapped_files(pid)):
            if self._is_known(mapped):
                self.files.use(pid, mapped)

    def inspect(self) -> None:
        """The next file, when its turn has come: a child that works leaves the others less of the processors."""
        for file in self.files.inspect():
            file.trouble = REPLACED

    def tick(self) -> None:
        """Once a second."""
        for file in self.files.tick():
            self._give_back(file)

    def on_answer(self) -> None:
        """What the inspector has found, when it is all there."""
        self.files.on_answer(self._attach_if_possible)

    def probes(self, file: WatchedFile, places: FunctionPlaces) -> list[Probe]:
        """Which programs are attached where, in this order."""
        ends = [Place(end.offset, end.result) for end in places.ends]
        return [Probe(self.function.at_end, ends), Probe(self.function.at_begin, [Place(places.begin, 0)])]

    def _attach_if_possible(self, file: WatchedFile) -> None:
        """Places in this very file: a probe in the midst of an instruction would end processes."""
        if file.found is None:
            file.trouble = f"its {self.function.name} could not be made out"
        else:
            self.files.attach(file, *self.probes(file, file.found))

    def _is_known(self, mapped: MappedFile) -> bool:
        """From now on, if it has not been seen before and there is room for it."""
        known = self.files.known
        if mapped in known:
            return True
        if len(known) >= MAX_FILES:
            for unused in [file for file in known.values() if not file.users]:
                self._give_back(unused)
        if len(known) >= MAX_FILES:
            self._has_too_many = True
            return False
        tell_every_mapping(self.loaded, mapped)
        return True

    def _give_back(self, file: WatchedFile) -> None:
        tell_first_mapping(self.loaded, file.mapped)
        self.files.give_back(file)


def _examine(file: int, function: WatchedFunction) -> object:
    from otel_ebpf.probe.function_finder import find_function  # here: the parent needs none of it

    with open(os.dup(file), "rb") as opened:
        return find_function(opened, function.name)


def _decode(row: Any) -> FunctionPlaces | None:
    if row is None or isinstance(row, str):
        return None
    begin, is_emulated, ends = row
    return FunctionPlaces(begin, is_emulated, tuple(FunctionEnd(*end) for end in ends))
