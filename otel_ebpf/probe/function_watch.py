"""Keeps probes where one function begins and ends, in those files that targets have mapped and that may have it: C libraries
with getaddrinfo, executables of nginx.

In:   which processes are targets, what they have mapped, what the inspector finds
Out:  attachments
Owns: the attachments, each for as long as a target uses its file, and a moment longer

A file is attached to once, whoever maps it. Where the function is in it is found out by a child without rights. No return
probes, so processes that switch stacks are in no danger.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from otel_ebpf.errors import printable
from otel_ebpf.probe.function_places import FunctionEnd, FunctionPlaces
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_watch import LINGER_TICKS, Patiently
from otel_ebpf.probe.uprobes import Place, UprobeForm, attach, close_all

MAX_FILES = 256  # of one kind that are remembered: one for each image of containers
_FILE = struct.Struct("<QI4x")  # struct executable
_IS_TOLD = struct.pack("<I", 1)  # enum mapped_file: every mapping of it is


@dataclass(frozen=True, slots=True)
class WatchedFunction:
    name: str
    at_begin: str  # programs
    at_end: str
    is_in: Callable[[MappedFile], bool]
    trouble: str  # for people: {path}, {why}
    too_many: str  # the same: {most} files
    with_argument: bool = False  # what holds its first argument at its end is asked for, too


@dataclass(slots=True)
class WatchedFile:
    path: str
    is_inspected: bool = False
    users: set[int] = field(default_factory=set)
    links: list[int] = field(default_factory=list)
    idle_ticks: int = 0
    trouble: str = ""


def function_inspector(function: WatchedFunction) -> FileInspector[FunctionPlaces | None]:
    """None: where it begins and ends could not be made out."""
    return FileInspector(lambda file: _examine(file, function), _decode)


class FunctionWatch:
    """`form` None, or the programs are not loaded: nothing is looked at."""

    def __init__(
        self,
        function: WatchedFunction,
        loaded: Loaded,
        form: UprobeForm | None,
        procfs: Procfs,
        patiently: Patiently = lambda attaching: attaching(),
    ) -> None:
        """`patiently`: how to do what takes milliseconds; `look_at` must not be called meanwhile."""
        self.form = form.of_instructions if form is not None and function.at_end in loaded.programs else None
        self.files: dict[MappedFile, WatchedFile] = {}
        self._function = function
        self._loaded = loaded
        self._procfs = procfs
        self._patiently = patiently
        self._inspector = function_inspector(function)
        self._waiting: dict[MappedFile, None] = {}  # in this order
        self._in_hand: tuple[MappedFile, int] | None = None  # which file, open, so that none can take its number
        self._has_too_many = False

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return sum(bool(file.links) for file in self.files.values())

    @property
    def troubles(self) -> list[str]:
        """For people: what is not seen, and why."""
        found = [
            self._function.trouble.format(path=printable(file.path), why=file.trouble)
            for file in self.files.values()
            if file.trouble
        ]
        if self._has_too_many:
            found.append(self._function.too_many.format(most=MAX_FILES))
        return found

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._inspector.fileno()

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something."""
        if self.form is None:
            return
        for mapped in filter(self._function.is_in, self._procfs.mapped_files(pid)):
            file = self.files.get(mapped) or self._remember(mapped)
            if file is not None:
                file.users.add(pid)
                if not file.is_inspected:
                    self._waiting[mapped] = None

    def inspect(self) -> None:
        """The next file, when its turn has come: a child that works leaves the others less of the processors.

        One that cannot be reached now is asked for again by the next process that maps it.
        """
        while not self._inspector.is_busy and self._waiting:
            mapped = next(iter(self._waiting))
            del self._waiting[mapped]
            descriptor = self._open(self.files[mapped], mapped)
            if descriptor is not None:
                self._in_hand = mapped, descriptor
                self._inspector.start([descriptor])

    def forget(self, pid: int) -> None:
        for file in self.files.values():
            file.users.discard(pid)

    def tick(self) -> None:
        """Once a second. Not at once: processes that live for a moment, such as curl, come one after the other."""
        for mapped, file in list(self.files.items()):
            file.idle_ticks = 0 if file.users else file.idle_ticks + 1
            if file.idle_ticks > LINGER_TICKS:
                self._drop(mapped)

    def on_answer(self) -> None:
        """What the inspector has found, when it is all there: nobody waits for it."""
        if not self._inspector.receive():
            return
        (places,) = self._inspector.finish()
        assert self._in_hand is not None
        (mapped, descriptor), self._in_hand = self._in_hand, None
        file = self.files.get(mapped)
        if file is not None:
            file.is_inspected = True
            self._waiting.pop(mapped, None)
            self._attach_if_possible(mapped, file, places, descriptor)
        os.close(descriptor)

    def attach_anew(self, mapped: MappedFile) -> None:
        """Once it has been looked into again."""
        self._detach(self.files[mapped])
        self.files[mapped].is_inspected = False
        self._waiting[mapped] = None

    def close(self) -> None:
        self._inspector.close()
        if self._in_hand is not None:
            os.close(self._in_hand[1])
            self._in_hand = None
        for file in self.files.values():
            close_all(file.links)
            file.links = []

    def _remember(self, mapped: MappedFile) -> WatchedFile | None:
        """A place for a file that has not been seen before."""
        if len(self.files) >= MAX_FILES:
            for unused in [other for other, file in self.files.items() if not file.users]:
                self._drop(unused)
        if len(self.files) >= MAX_FILES:
            self._has_too_many = True
            return None
        file = self.files[mapped] = WatchedFile(os.fsdecode(mapped.path))
        self._loaded.maps["mapped_files"].update(_FILE.pack(mapped.inode, mapped.device), _IS_TOLD)
        return file

    def _open(self, file: WatchedFile, mapped: MappedFile) -> int | None:
        """By any of its users: some may have ended meanwhile."""
        ways = (self._procfs.open_mapped(pid, mapped) for pid in file.users)
        descriptor = next((opened for opened in ways if opened is not None), None)
        if descriptor is None and any(mapped in self._procfs.mapped_files(pid) for pid in file.users):
            file.trouble = "it was replaced while processes run it: restart them"
        return descriptor

    def _attach_if_possible(
        self, mapped: MappedFile, file: WatchedFile, places: FunctionPlaces | None, descriptor: int
    ) -> None:
        """Places in this very file: a probe in the midst of an instruction would end processes."""
        file.trouble = ""
        if places is None:
            file.trouble = f"its {self._function.name} could not be made out"
            return
        try:
            probes = self.probes(mapped, places)
            file.links = self._patiently(lambda: self._attach(probes, f"/proc/self/fd/{descriptor}"))
        except OSError as error:
            file.trouble = f"cannot attach: {error.strerror}"

    def probes(self, mapped: MappedFile, places: FunctionPlaces) -> dict[str, list[Place]]:
        """Which programs are attached where, in this order."""
        ends = [Place(end.offset, end.result) for end in places.ends]
        return {self._function.at_end: ends, self._function.at_begin: [Place(places.begin, 0)]}

    def _attach(self, probes: dict[str, list[Place]], path: str) -> list[int]:
        assert self.form is not None
        links: list[int] = []
        try:
            for program, places in probes.items():
                links += attach(self.form, self._loaded.programs[program], path, places)
        except BaseException:
            close_all(links)
            raise
        return links

    def _drop(self, mapped: MappedFile) -> None:
        """Without a user another file may get its number: what is known of it is forgotten, too."""
        file = self.files.pop(mapped)
        self._waiting.pop(mapped, None)
        self._loaded.maps["mapped_files"].delete(_FILE.pack(mapped.inode, mapped.device))
        self._detach(file)

    def _detach(self, file: WatchedFile) -> None:
        links, file.links = file.links, []
        if links:
            self._patiently(lambda: _closed(links))


def _closed(links: list[int]) -> list[int]:
    close_all(links)
    return []


def _examine(file: int, function: WatchedFunction) -> object:
    from otel_ebpf.probe.function_finder import find_function  # here: the parent needs none of it

    with open(os.dup(file), "rb") as opened:
        return find_function(opened, function.name, with_argument=function.with_argument)


def _decode(row: Any) -> FunctionPlaces | None:
    if row is None or isinstance(row, str):
        return None
    begin, is_emulated, ends = row
    return FunctionPlaces(begin, is_emulated, tuple(FunctionEnd(*end) for end in ends))
