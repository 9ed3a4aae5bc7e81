"""Keeps the probes on getaddrinfo in the C libraries of targets: names that they look up before they connect.

In:   which processes are targets, what they have mapped, what the inspector finds
Out:  attachments
Owns: the attachments, each for as long as a target uses its file, and a moment longer

A file is attached to once, whoever maps it. Every process of the host that shares it pays for the question whether it is
a target, and nothing else: no return probes, so processes that switch stacks are in no danger.
"""

import os
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from otel_ebpf.errors import printable
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.lookup_places import LookupEnd, LookupPlaces
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_watch import LINGER_TICKS, Patiently
from otel_ebpf.probe.uprobes import Place, UprobeForm, attach, close_all

MAX_LIBRARIES = 256  # that are remembered: one for each image of containers
_LIBC = re.compile(rb"/(libc\.so(\.6)?|libc-[0-9.]+\.so|(ld-|libc\.)musl-[^/]+)\Z")  # glibc; musl
_NOT_SEEN = "names that are looked up"
_FILE = struct.Struct("<QI4x")  # struct executable
_IS_TOLD = struct.pack("<I", 1)  # enum mapped_file: every mapping of it is


def is_libc(mapped: MappedFile) -> bool:
    return _LIBC.search(mapped.path) is not None


def lookup_inspector() -> FileInspector[LookupPlaces | None]:
    """None: where getaddrinfo begins and ends could not be made out."""
    return FileInspector(_examine, _decode)


@dataclass(slots=True)
class CLibrary:
    path: str
    is_inspected: bool = False
    users: set[int] = field(default_factory=set)
    links: list[int] = field(default_factory=list)
    idle_ticks: int = 0
    trouble: str = ""


class LookupWatch:
    """`form` None, or the programs are not loaded: nothing is looked at."""

    def __init__(
        self,
        loaded: Loaded,
        form: UprobeForm | None,
        procfs: Procfs,
        patiently: Patiently = lambda attaching: attaching(),
    ) -> None:
        """`patiently`: how to do what takes milliseconds; `look_at` must not be called meanwhile."""
        self._patiently = patiently
        self._loaded = loaded
        self._form = form.of_instructions if form is not None and "on_lookup_entry" in loaded.programs else None
        self._procfs = procfs
        self._inspector = lookup_inspector()
        self._libraries: dict[MappedFile, CLibrary] = {}
        self._waiting: dict[MappedFile, None] = {}  # in this order
        self._in_hand: tuple[MappedFile, int] | None = None  # which file, open, so that none can take its number
        self._has_too_many = False

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return sum(bool(library.links) for library in self._libraries.values())

    @property
    def form_text(self) -> str:
        return f"uprobes on getaddrinfo ({self._form.name.lower()})" if self._form is not None else ""

    @property
    def troubles(self) -> list[str]:
        """For people: whose names are not seen, and why."""
        found = [
            f"{_NOT_SEEN} by {printable(library.path)} are not seen: {library.trouble}"
            for library in self._libraries.values()
            if library.trouble
        ]
        if self._has_too_many:
            found.append(f"{_NOT_SEEN} are not all seen: more than {MAX_LIBRARIES} C libraries are in use")
        return found

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._inspector.fileno()

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something."""
        if self._form is None:
            return
        for mapped in filter(is_libc, self._procfs.mapped_files(pid)):
            library = self._libraries.get(mapped) or self._remember(mapped)
            if library is not None:
                library.users.add(pid)
                if not library.is_inspected:
                    self._waiting[mapped] = None

    def inspect(self) -> None:
        """The next file, when its turn has come: a child that works leaves the others less of the processors.

        One that cannot be reached now is asked for again by the next process that maps it.
        """
        while not self._inspector.is_busy and self._waiting:
            mapped = next(iter(self._waiting))
            del self._waiting[mapped]
            file = self._open(self._libraries[mapped], mapped)
            if file is not None:
                self._in_hand = mapped, file
                self._inspector.start([file])

    def forget(self, pid: int) -> None:
        for library in self._libraries.values():
            library.users.discard(pid)

    def tick(self) -> None:
        """Once a second. Not at once: processes that live for a moment, such as curl, come one after the other."""
        for mapped, library in list(self._libraries.items()):
            library.idle_ticks = 0 if library.users else library.idle_ticks + 1
            if library.idle_ticks > LINGER_TICKS:
                self._drop(mapped)

    def on_answer(self) -> None:
        """What the inspector has found, when it is all there: nobody waits for it."""
        if not self._inspector.receive():
            return
        (places,) = self._inspector.finish()
        assert self._in_hand is not None
        (mapped, file), self._in_hand = self._in_hand, None
        library = self._libraries.get(mapped)
        if library is not None:
            library.is_inspected = True
            self._waiting.pop(mapped, None)
            self._attach_if_possible(library, places, file)
        os.close(file)

    def close(self) -> None:
        self._inspector.close()
        if self._in_hand is not None:
            os.close(self._in_hand[1])
            self._in_hand = None
        for library in self._libraries.values():
            close_all(library.links)
            library.links = []

    def _remember(self, mapped: MappedFile) -> CLibrary | None:
        """A place for a file that has not been seen before."""
        if len(self._libraries) >= MAX_LIBRARIES:
            for unused in [other for other, library in self._libraries.items() if not library.users]:
                self._drop(unused)
        if len(self._libraries) >= MAX_LIBRARIES:
            self._has_too_many = True
            return None
        library = self._libraries[mapped] = CLibrary(os.fsdecode(mapped.path))
        self._loaded.maps["mapped_files"].update(_FILE.pack(mapped.inode, mapped.device), _IS_TOLD)
        return library

    def _open(self, library: CLibrary, mapped: MappedFile) -> int | None:
        """By any of its users: some may have ended meanwhile."""
        ways = (self._procfs.open_mapped(pid, mapped) for pid in library.users)
        file = next((file for file in ways if file is not None), None)
        if file is None and any(mapped in self._procfs.mapped_files(pid) for pid in library.users):
            library.trouble = "it was replaced while processes run it: restart them"
        return file

    def _attach_if_possible(self, library: CLibrary, places: LookupPlaces | None, file: int) -> None:
        """Places in this very file: a probe in the midst of an instruction would end processes."""
        library.trouble = ""
        if places is None:
            library.trouble = "its getaddrinfo could not be made out"
            return
        try:
            library.links = self._patiently(lambda: self._attach(places, f"/proc/self/fd/{file}"))
        except OSError as error:
            library.trouble = f"cannot attach: {error.strerror}"

    def _attach(self, places: LookupPlaces, path: str) -> list[int]:
        form, programs = self._form, self._loaded.programs
        assert form is not None
        links = attach(form, programs["on_lookup_end"], path, [Place(end.offset, end.result) for end in places.ends])
        try:
            return links + attach(form, programs["on_lookup_entry"], path, [Place(places.begin, 0)])
        except BaseException:
            close_all(links)
            raise

    def _drop(self, mapped: MappedFile) -> None:
        """Without a user another file may get its number: what is known of it is forgotten, too."""
        library = self._libraries.pop(mapped)
        self._waiting.pop(mapped, None)
        self._loaded.maps["mapped_files"].delete(_FILE.pack(mapped.inode, mapped.device))
        if library.links:
            self._patiently(lambda: _closed(library.links))


def _closed(links: list[int]) -> list[int]:
    close_all(links)
    return []


def _examine(file: int) -> object:
    from otel_ebpf.probe.lookup_library import find_getaddrinfo  # here: the parent needs none of it

    with open(os.dup(file), "rb") as opened:
        return find_getaddrinfo(opened)


def _decode(row: Any) -> LookupPlaces | None:
    if row is None or isinstance(row, str):
        return None
    begin, is_emulated, ends = row
    return LookupPlaces(begin, is_emulated, tuple(LookupEnd(*end) for end in ends))
