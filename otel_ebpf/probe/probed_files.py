"""Files of targets that have probes, or may get some: who uses them, whose turn it is with the inspector, what it has found.

In:   which processes use which files; what the inspector finds; where the probes are to be
Out:  attachments
Owns: the attachments, each until its file is given back; the file that the inspector has in hand

A file is attached to once, whoever uses it. One at a time is looked into, by a child without rights.
"""

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from otel_ebpf.errors import ProbeError, printable
from otel_ebpf.probe.bpf import BPF_NOEXIST
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import FILE, PID
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.uprobes import Probe, UprobeForm, attach_all, close_all

LINGER_TICKS = 10
REPLACED = "it was replaced while processes run it: restart them"
_MAX_TROUBLES = 256
Found = TypeVar("Found")
Patiently = Callable[[Callable[[], list[int]]], list[int]]  # does what takes milliseconds


def at_once(attaching: Callable[[], list[int]]) -> list[int]:
    return attaching()


@dataclass(slots=True)
class ProbedFile(Generic[Found]):
    """One that targets use, or have used a moment ago."""

    mapped: MappedFile
    users: dict[int, None] = field(default_factory=dict)
    is_inspected: bool = False
    found: Found | None = None
    trouble: str = ""  # why it has no probes
    has_rare_probes: bool = False  # those that most files do without
    links: list[int] = field(default_factory=list)
    idle_ticks: int = 0

    @property
    def path(self) -> str:
        """For people."""
        return printable(os.fsdecode(self.mapped.path))


class ProbedFiles(Generic[Found]):
    """`form` is None where uprobes are off, or `program` is not loaded: nothing is to be looked at then."""

    def __init__(
        self,
        inspector: FileInspector[Found],
        loaded: Loaded,
        form: UprobeForm | None,
        program: str,
        procfs: Procfs,
        patiently: Patiently,
    ) -> None:
        self.form = form.of_instructions if form is not None and loaded.has(program) else None
        self.known: dict[MappedFile, ProbedFile[Found]] = {}
        self._inspector = inspector
        self._loaded = loaded
        self._procfs = procfs
        self._patiently = patiently
        self._waiting: dict[MappedFile, None] = {}  # in this order
        self._in_hand: tuple[MappedFile, int] | None = None  # which file, open, so that none can take its number
        self._told: dict[str, None] = {}

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return sum(bool(file.links) for file in self.known.values())

    @property
    def troubles(self) -> list[str]:
        """All that `tell` was given."""
        return list(self._told)

    def tell(self, line: str) -> None:
        if len(self._told) < _MAX_TROUBLES:
            self._told[line] = None

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._inspector.fileno()

    def use(self, pid: int, mapped: MappedFile) -> ProbedFile[Found]:
        """It will be looked into, if it has not been; one that could not be reached is asked for again."""
        file = self.known.setdefault(mapped, ProbedFile(mapped))
        file.users[pid] = None
        if not file.is_inspected:
            self._waiting[mapped] = None
        return file

    def used_by(self, pid: int) -> list[ProbedFile[Found]]:
        return [file for file in self.known.values() if pid in file.users]

    def is_in_use(self, file: ProbedFile[Found]) -> bool:
        """Of those who used it some may have ended since."""
        return any(file.mapped in self._procfs.mapped_files(pid) for pid in file.users)

    def forget(self, pid: int) -> None:
        for file in self.known.values():
            file.users.pop(pid, None)

    def inspect(self) -> list[ProbedFile[Found]]:
        """The next file, when its turn has come. Returns those that are in use and cannot be reached."""
        lost = []
        while not self._inspector.is_busy and self._waiting:
            mapped = next(iter(self._waiting))
            del self._waiting[mapped]
            file = self.known[mapped]
            descriptor = self._open(file)
            if descriptor is not None:
                self._in_hand = mapped, descriptor
                self._inspector.start([descriptor])
            elif self.is_in_use(file):
                lost.append(file)
        return lost

    def on_answer(self, take: Callable[[ProbedFile[Found]], None]) -> list[int]:
        """Hands on what was found, when it is all there: nobody waits for it. Returns who uses the file.

        While `take` works, the file can be attached to without a user.
        """
        if not self._inspector.receive():
            return []
        (found,) = self._inspector.finish()
        assert self._in_hand is not None
        mapped, descriptor = self._in_hand
        self._waiting.pop(mapped, None)
        file = self.known.get(mapped)
        if file is not None:
            file.is_inspected, file.found, file.trouble = True, found, ""
            take(file)
        self._in_hand = None
        os.close(descriptor)
        return list(file.users) if file is not None else []

    def attach(self, file: ProbedFile[Found], *probes: Probe) -> None:
        """Beside those that it has. What cannot be attached takes them with it."""
        why = self.attach_more(file, *probes)
        if why:
            close_all(file.links)
            file.links, file.found = [], None
            file.trouble = why

    def attach_more(self, file: ProbedFile[Found], *probes: Probe) -> str:
        """The same for what others can do without. Returns why there are none of them, or nothing."""
        form, descriptor = self.form, self._open(file)
        assert form is not None
        try:
            if descriptor is None:
                raise FileNotFoundError(errno.ENOENT, REPLACED)
            path = f"/proc/self/fd/{descriptor}"
            file.links += self._patiently(lambda: attach_all(form, self._loaded.program, path, probes))
        except OSError as error:
            return f"cannot attach: {error.strerror}"
        except ProbeError as error:
            return error.what
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return ""

    def follow(self, pid: int, entries: str, value: bytes, what: str) -> bool:
        """Enters the process into this map, for owners; the kernel keeps what it knows already. False: there was no room."""
        try:
            self._loaded.provide("owner_map")
            self._loaded.maps[entries].update(PID.pack(pid), value, BPF_NOEXIST)
        except FileExistsError:
            pass
        except OSError as error:
            self.tell(f"calls of process {pid} have no parent: no room for another {what}: {error.strerror}")
            return False
        return True

    def leave_to_next(self, file: ProbedFile[Found]) -> None:
        """Whoever uses it next has it looked into."""
        file.is_inspected, file.found = False, None

    def tick(self) -> list[ProbedFile[Found]]:
        """Once a second. Returns what is to be given back.

        Not at once: processes that live for a moment, such as curl, come one after the other.
        """
        for file in self.known.values():
            file.idle_ticks = 0 if file.users else file.idle_ticks + 1
        return [file for file in self.known.values() if file.idle_ticks > LINGER_TICKS]

    def give_back(self, file: ProbedFile[Found]) -> None:
        """Without a user another file may get its number: what is known of it is forgotten, too."""
        del self.known[file.mapped]
        self._waiting.pop(file.mapped, None)
        self._detach(file)

    def close(self) -> None:
        self._inspector.close()
        if self._in_hand is not None:
            os.close(self._in_hand[1])
            self._in_hand = None
        for file in self.known.values():
            close_all(file.links)
            file.links = []

    def _open(self, file: ProbedFile[Found]) -> int | None:
        if self._in_hand is not None and self._in_hand[0] == file.mapped:
            return os.dup(self._in_hand[1])
        return self._procfs.open_by_any(file.users, file.mapped)

    def _detach(self, file: ProbedFile[Found]) -> None:
        links, file.links = file.links, []
        if links:
            self._patiently(lambda: _closed(links))


def _closed(links: list[int]) -> list[int]:
    close_all(links)
    return []


def tell_every_mapping(loaded: Loaded, mapped: MappedFile, why: int = 1) -> None:
    """Otherwise the kernel tells of a file's first one. `why`: enum mapped_file."""
    loaded.maps["mapped_files"].update(FILE.pack(mapped.inode, mapped.device), struct.pack("<I", why))


def tell_first_mapping(loaded: Loaded, mapped: MappedFile) -> None:
    loaded.maps["mapped_files"].delete(FILE.pack(mapped.inode, mapped.device))
