"""Follows the contexts of targets that run CPython, so that the kernel side can tell which request is worked on.

In:   which processes are targets, what they have mapped, what the inspector finds
Out:  attachments; entries of the map `interpreters`; which processes are Python
Owns: the attachments, each for as long as a target uses its file, and a moment longer

A process that maps two interpreters, or one that cannot be read, gets no entry: its calls have no parent.
"""

import errno
import os
import re
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, BinaryIO

from otel_ebpf.errors import printable
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.python_findings import GreenletLibrary, Library, PythonLibrary, QueueLibrary, Spot
from otel_ebpf.probe.tls_watch import TARGET_WITHOUT_RETURN_PROBES
from otel_ebpf.probe.uprobes import Place, UprobeForm, attach, close_all

TARGET_IS_PYTHON, TARGET_READS_OUTSIDE = 4, 8
LINGER_TICKS = 10
_MAX_MODULES = 1 << 16
MAX_TROUBLES = 256
_REPLACED = "it was replaced while processes run it: restart them"
_TELL_EVERY_MAPPING = 1  # enum mapped_file: any but 0
_BPF_NOEXIST = 1
_INTERPRETER = struct.Struct("<QQIIIIQI4x")  # struct interpreter
_FILE = struct.Struct("<QI4x")  # struct executable
_PID = struct.Struct("<I")
_NAME = re.compile(rb"(?:lib)?python3\.(\d+)[a-z]*(?:\.so\.1\.0)?")
_UVLOOP = b"/uvloop/loop."
_GREENLET = re.compile(rb"_greenlet\.[^/]*so")
_QUEUE = re.compile(rb"_queue\.[^/]*so")
_IS_GREENLET = 0x100  # in a cookie
# Where the minor version keeps what runs: key of the thread's state, offset of its context. Proven when a first context
# is made; of other versions nothing is said before.
_LAYOUTS = {8: (0, 0xF0), 9: (0, 0xF0), 10: (0, 0xF0), 11: (0, 0xE0), 12: (0, 0xD0), 13: (1, 0xD0)}
Finding = Library | str | None
Patiently = Callable[[Callable[[], list[int]]], list[int]]


@dataclass(slots=True)
class Interpreter:
    """A file that holds CPython or greenlet, or merely starts Python."""

    library: Library | None = None  # None: see `trouble`; none where it merely starts Python
    trouble: str = ""
    links: list[int] = field(default_factory=list)
    has_entry_probe: bool = False  # uvloop alone needs it
    unused_ticks: int = 0

    @property
    def is_python(self) -> bool:
        """Or would be, if it could be read."""
        return self.library is not None or bool(self.trouble)


class PythonWatch:
    """`form` None: contexts are not followed, and nothing is looked at."""

    def __init__(
        self,
        loaded: Loaded,
        form: UprobeForm | None,
        procfs: Procfs,
        patiently: Patiently = lambda attaching: attaching(),
    ) -> None:
        """`patiently`: how to do what takes milliseconds; `look_at` must not be called meanwhile."""
        self._loaded = loaded
        self._form = form.of_instructions if form is not None and "on_context_made" in loaded.programs else None
        self._procfs = procfs
        self._patiently = patiently
        self._inspector = FileInspector(_examine, _decode)
        self._interpreters: dict[MappedFile, Interpreter] = {}
        self._waiting: dict[MappedFile, None] = {}  # in this order; the first one is in the inspector's hands
        self._files: dict[int, list[MappedFile]] = {}  # of each target that runs Python, by their names
        self._flags: dict[int, int] = {}  # of those that can be followed
        self._too_early: dict[int, None] = {}  # looked at before their greenlets were ready
        self._troubles: dict[str, None] = {}

    @property
    def troubles(self) -> list[str]:
        """For people: whose calls have no parent, and why."""
        return list(self._troubles)

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return sum(bool(interpreter.links) for interpreter in self._interpreters.values())

    @property
    def follows_any(self) -> bool:
        return bool(self._flags)

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._inspector.fileno()

    def target_flags(self, pid: int) -> int:
        return self._flags.get(pid, 0)

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something. What `target_flags` says may change by it."""
        if self._form is None:
            return
        files = self._procfs.mapped_files(pid)
        named = [mapped for mapped in files if _is_of_interest(mapped)]
        if not any(map(_is_python, named)):
            self.forget(pid)
            return
        self._files[pid] = named
        for mapped in files:
            if _UVLOOP in mapped.path:
                self._tell_every_mapping(mapped)
        is_outside = any(_UVLOOP in mapped.path for mapped in files)
        switches = any(_is_greenlet(mapped) for mapped in named)
        flags = TARGET_IS_PYTHON | (TARGET_READS_OUTSIDE if is_outside else 0)
        self._follow(pid, flags | (TARGET_WITHOUT_RETURN_PROBES if switches else 0))
        for mapped in named:
            if mapped not in self._interpreters:
                self._waiting[mapped] = None
        self._inspect()

    def on_answer(self) -> list[int]:
        """What the inspector has found, when it is all there. Returns the processes to be looked at again."""
        if not self._inspector.receive():
            return []
        mapped = next(iter(self._waiting))
        del self._waiting[mapped]
        (finding,) = self._inspector.finish()
        if self._is_in_use(mapped):
            interpreter = self._interpreters[mapped] = Interpreter()
            if isinstance(finding, Library):
                interpreter.library = finding
                self._attach(interpreter, mapped)
            elif finding:
                interpreter.trouble = finding
            if interpreter.trouble and self._is_in_use(mapped):
                self._name(mapped, interpreter.trouble)
            self._tell_every_mapping(mapped)
        users = self._users(mapped)
        self._inspect()
        return users

    def forget(self, pid: int) -> None:
        self._files.pop(pid, None)
        if self._flags.pop(pid, None) is not None:
            self._loaded.maps["interpreters"].delete(_PID.pack(pid))

    def tick(self) -> list[int]:
        """Once a second. Returns the processes to be looked at again.

        Nothing is given back at once: processes that live for a moment come one after the other.
        """
        early, self._too_early = list(self._too_early), {}
        for mapped, interpreter in list(self._interpreters.items()):
            interpreter.unused_ticks = 0 if self._users(mapped) else interpreter.unused_ticks + 1
            if interpreter.unused_ticks > LINGER_TICKS:
                close_all(interpreter.links)
                del self._interpreters[mapped]
                self._loaded.maps["mapped_files"].delete(_FILE.pack(mapped.inode, mapped.device))
        return early

    def close(self) -> None:
        """What nobody follows any more has no owners, though sockets are watched still: addresses are used again."""
        for pid in list(self._files):
            self.forget(pid)
        self._inspector.close()
        for interpreter in self._interpreters.values():
            close_all(interpreter.links)
            interpreter.links = []

    def _users(self, mapped: MappedFile) -> list[int]:
        return [pid for pid, files in self._files.items() if mapped in files]

    def _is_in_use(self, mapped: MappedFile) -> bool:
        """Of those who used it some may have ended since."""
        return any(mapped in self._procfs.mapped_files(pid) for pid in self._users(mapped))

    def _inspect(self) -> None:
        while self._waiting and not self._inspector.is_busy:
            mapped = next(iter(self._waiting))
            file = self._open(mapped)
            if file is not None:
                self._inspector.start([file])
                os.close(file)
                return
            del self._waiting[mapped]  # whoever maps it next has it looked into
            if self._is_in_use(mapped):
                self._name(mapped, _REPLACED)

    def _attach(self, interpreter: Interpreter, mapped: MappedFile) -> None:
        """What frees contexts first: from then on no owner outlives its address."""
        library = interpreter.library
        assert library is not None
        if isinstance(library, QueueLibrary):
            self._attach_to(interpreter, mapped, "on_job_taken", library.gets)
            if not interpreter.trouble:
                self._attach_to(interpreter, mapped, "on_job_put", [library.put])
            return
        kind = _IS_GREENLET if isinstance(library, GreenletLibrary) else 0
        births = [(offset, register | kind) for offset, register in library.births]
        self._attach_to(interpreter, mapped, "on_context_freed", [library.death])
        if not interpreter.trouble:
            self._attach_to(interpreter, mapped, "on_context_made", births)

    def _attach_to(self, interpreter: Interpreter, mapped: MappedFile, program: str, spots: Sequence[Spot]) -> None:
        form, descriptor = self._form, self._loaded.programs[program]
        assert form is not None
        file = self._open(mapped)
        try:
            if file is None:
                raise FileNotFoundError(errno.ENOENT, _REPLACED)
            path, places = f"/proc/self/fd/{file}", [Place(*spot) for spot in spots]
            interpreter.links += self._patiently(lambda: attach(form, descriptor, path, places))
        except OSError as error:
            close_all(interpreter.links)
            interpreter.links, interpreter.library = [], None
            interpreter.trouble = f"cannot attach: {error.strerror}"
        finally:
            if file is not None:
                os.close(file)

    def _open(self, mapped: MappedFile) -> int | None:
        ways = (self._procfs.open_mapped(pid, mapped) for pid in self._users(mapped))
        return next((file for file in ways if file is not None), None)

    def _tell_every_mapping(self, mapped: MappedFile) -> None:
        """Otherwise the kernel tells of a file's first one."""
        file = _FILE.pack(mapped.inode, mapped.device)
        self._loaded.maps["mapped_files"].update(file, struct.pack("<I", _TELL_EVERY_MAPPING))

    def _follow(self, pid: int, flags: int) -> None:
        """Tells the kernel where this process keeps what runs, once all its files are known."""
        found = [(mapped, self._interpreters[mapped]) for mapped in self._files[pid] if mapped in self._interpreters]
        if len(found) < len(self._files[pid]):
            return
        python = [(mapped, one) for mapped, one in found if one.is_python and _is_python(mapped)]
        if len(python) > 1:
            self._tell(f"calls of process {pid} have no parent: it maps two interpreters")
        if len(python) == 1 and self._use(pid, *python[0], flags):
            self._flags[pid] = flags
            for mapped, one in found:
                if isinstance(one.library, GreenletLibrary):
                    self._add_greenlets(pid, mapped, one.library)
        elif self._flags.pop(pid, None) is not None:
            self._loaded.maps["interpreters"].delete(_PID.pack(pid))

    def _use(self, pid: int, mapped: MappedFile, interpreter: Interpreter, flags: int) -> bool:
        """The kernel keeps what it knows already: of its own finding, or inherited by fork."""
        library, code_shift = interpreter.library, self._procfs.code_shift(pid, mapped)
        version = _NAME.fullmatch(os.path.basename(mapped.path))
        if not isinstance(library, PythonLibrary) or code_shift is None or version is None:
            return False
        if flags & TARGET_READS_OUTSIDE and not interpreter.has_entry_probe:
            self._attach_to(interpreter, mapped, "on_context_entered", [library.entry])
            interpreter.has_entry_probe = True
            if pid not in self._files:
                return False  # it has ended meanwhile
        storage_key, context = _LAYOUTS.get(int(version[1]), (0, 0))
        address = library.type_address - library.code_shift + code_shift
        value = _INTERPRETER.pack(time.monotonic_ns(), address, storage_key, context, 0, 0, 0, 0)
        try:
            self._loaded.maps["interpreters"].update(_PID.pack(pid), value, _BPF_NOEXIST)
        except FileExistsError:
            pass
        except OSError as error:
            self._tell(f"calls of process {pid} have no parent: no room for another interpreter: {error.strerror}")
            return False
        return True

    def _add_greenlets(self, pid: int, mapped: MappedFile, library: GreenletLibrary) -> None:
        """Which thread-local storage is greenlet's, the loader has written into the process; a moment after it was mapped."""
        code_shift, key = self._procfs.code_shift(pid, mapped), _PID.pack(pid)
        known = self._loaded.maps["interpreters"].lookup(key)
        if code_shift is None or known is None:
            return
        shift = code_shift - library.code_shift
        module = int.from_bytes(self._procfs.memory(pid, library.module_slot + shift, 8) or b"", "little")
        if not 0 < module < _MAX_MODULES:
            self._too_early[pid] = None
            return
        fields = _INTERPRETER.unpack(known)[:6]
        value = _INTERPRETER.pack(*fields, library.type_address + shift, module)
        self._loaded.maps["interpreters"].update(key, value)

    def _name(self, mapped: MappedFile, trouble: str) -> None:
        self._tell(f"calls of {printable(os.fsdecode(mapped.path))} have no parent: {trouble}")

    def _tell(self, line: str) -> None:
        if len(self._troubles) < MAX_TROUBLES:
            self._troubles[line] = None


def _is_greenlet(mapped: MappedFile) -> bool:
    return _GREENLET.fullmatch(os.path.basename(mapped.path)) is not None


def _is_python(mapped: MappedFile) -> bool:
    return _NAME.fullmatch(os.path.basename(mapped.path)) is not None


def _is_of_interest(mapped: MappedFile) -> bool:
    return _is_python(mapped) or _is_greenlet(mapped) or _QUEUE.fullmatch(os.path.basename(mapped.path)) is not None


def _examine(file: int) -> object:
    """Its kind, and what was found."""
    from otel_ebpf.probe import greenlet_library, python_library, queue_library

    looks: tuple[tuple[str, Callable[[BinaryIO], Library]], ...] = (
        ("python", python_library.inspect),
        ("greenlet", greenlet_library.inspect),
        ("queue", queue_library.inspect),
    )
    for kind, look in looks:
        try:
            with open(os.dup(file), "rb") as opened:
                return [kind, *astuple(look(opened))]
        except (python_library.NoPythonError, greenlet_library.NoGreenletError, queue_library.NoQueueError):
            pass
        except python_library.UnreadablePythonError as error:
            return str(error)
    return None


def _decode(row: Any) -> Finding:
    if row is None or isinstance(row, str):
        return row
    kind, *fields = row
    kinds: dict[str, Callable[..., Library]] = {
        "python": PythonLibrary,
        "greenlet": GreenletLibrary,
        "queue": QueueLibrary,
    }
    return kinds[kind](*map(_tuples, fields))


def _tuples(field: Any) -> Any:
    """JSON has lists."""
    return tuple(map(_tuples, field)) if isinstance(field, list) else field
