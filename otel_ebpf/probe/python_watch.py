"""Follows the contexts of targets that run CPython, so that the kernel side can tell which request is worked on.

In:   which processes are targets, what they have mapped, what the inspector finds
Out:  attachments; entries of the map `interpreters`; which processes are Python
Owns: the attachments, each for as long as a target uses its file, and a moment longer

A process that maps two interpreters, or one that cannot be read, gets no entry: its calls have no parent.
"""

import os
import re
import struct
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, BinaryIO

from otel_ebpf.probe.file_watch import FileWatch
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import PID
from otel_ebpf.probe.probed_files import (
    REPLACED,
    Patiently,
    ProbedFile,
    at_once,
    tell_every_mapping,
    tell_first_mapping,
)
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.python_findings import GreenletLibrary, Library, PythonLibrary, QueueLibrary, Spot
from otel_ebpf.probe.tls_watch import TARGET_WITHOUT_RETURN_PROBES
from otel_ebpf.probe.uprobes import Place, Probe, UprobeForm

TARGET_IS_PYTHON, TARGET_READS_OUTSIDE = 4, 8
_MAX_MODULES = 1 << 16
_INTERPRETER = struct.Struct("<QQIIIIQI4x")  # struct interpreter
_NAME = re.compile(rb"(?:lib)?python3\.(\d+)[a-z]*(?:\.so\.1\.0)?")
_UVLOOP = b"/uvloop/loop."
_GREENLET = re.compile(rb"_greenlet\.[^/]*so")
_QUEUE = re.compile(rb"_queue\.[^/]*so")
_IS_GREENLET = 0x100  # in a cookie
# Where the minor version keeps what runs: key of the thread's state, offset of its context. Proven when a first context
# is made; of other versions nothing is said before.
_LAYOUTS = {8: (0, 0xF0), 9: (0, 0xF0), 10: (0, 0xF0), 11: (0, 0xE0), 12: (0, 0xD0), 13: (1, 0xD0)}
Finding = Library | str | None


Interpreter = ProbedFile[Finding]  # a file that holds CPython, greenlet or _queue, or merely starts Python


class PythonWatch(FileWatch[Finding]):
    needs = "on_context_made"

    def __init__(self, loaded: Loaded, form: UprobeForm | None, procfs: Procfs, patiently: Patiently = at_once) -> None:
        super().__init__(loaded, form, procfs, patiently)
        self._flags: dict[int, int] = {}  # of those that can be followed
        self._too_early: dict[int, None] = {}  # looked at before their greenlets were ready

    def inspector(self) -> FileInspector[Finding]:
        return FileInspector(_examine, _decode)

    @property
    def follows_any(self) -> bool:
        return bool(self._flags)

    def target_flags(self, pid: int) -> int:
        return self._flags.get(pid, 0)

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something. What `target_flags` says may change by it."""
        if self.files.form is None:
            return
        files = self.procfs.mapped_files(pid)
        named = [mapped for mapped in files if _is_of_interest(mapped)]
        if not any(map(_is_python, named)):
            self.forget(pid)
            return
        self.files.forget(pid)
        used = [self.files.use(pid, mapped) for mapped in named]
        for mapped in files:
            if _UVLOOP in mapped.path:
                tell_every_mapping(self.loaded, mapped)
        is_outside = any(_UVLOOP in mapped.path for mapped in files)
        switches = any(_is_greenlet(mapped) for mapped in named)
        flags = TARGET_IS_PYTHON | (TARGET_READS_OUTSIDE if is_outside else 0)
        if all(file.is_inspected for file in used):
            self._follow(pid, used, flags | (TARGET_WITHOUT_RETURN_PROBES if switches else 0))
        self.inspect()

    def inspect(self) -> None:
        for file in self.files.inspect():
            self._tell_of(file, REPLACED)

    def on_answer(self) -> list[int]:
        """What the inspector has found, when it is all there. Returns the processes to be looked at again."""
        users = self.files.on_answer(self._attach_if_possible)
        self.inspect()
        return users

    def forget(self, pid: int) -> None:
        super().forget(pid)
        self._unfollow(pid)

    def tick(self) -> list[int]:
        """Once a second. Returns the processes to be looked at again."""
        early, self._too_early = list(self._too_early), {}
        for file in self.files.tick():
            self.files.give_back(file)
            tell_first_mapping(self.loaded, file.mapped)
        return early

    def close(self) -> None:
        """What nobody follows any more has no owners, though sockets are watched still: addresses are used again."""
        for pid in list(self._flags):
            self.forget(pid)
        super().close()

    def _attach_if_possible(self, file: Interpreter) -> None:
        if not self.files.is_in_use(file):
            self.files.leave_to_next(file)
            return
        if isinstance(file.found, Library):
            self.files.attach(file, *_probes(file.found))
        elif file.found:
            file.trouble = file.found
        if file.trouble:
            self._tell_of(file, file.trouble)
        tell_every_mapping(self.loaded, file.mapped)

    def _follow(self, pid: int, files: list[Interpreter], flags: int) -> None:
        """Tells the kernel where this process keeps what runs."""
        python = [file for file in files if (file.found or file.trouble) and _is_python(file.mapped)]
        if len(python) > 1:
            self.files.tell(f"calls of process {pid} have no parent: it maps two interpreters")
        if len(python) == 1 and self._use(pid, python[0], flags):
            self._flags[pid] = flags
            for file in files:
                if isinstance(file.found, GreenletLibrary):
                    self._add_greenlets(pid, file.mapped, file.found)
        else:
            self._unfollow(pid)

    def _unfollow(self, pid: int) -> None:
        if self._flags.pop(pid, None) is not None:
            self.loaded.maps["interpreters"].delete(PID.pack(pid))

    def _use(self, pid: int, file: Interpreter, flags: int) -> bool:
        """The kernel keeps what it knows already: of its own finding, or inherited by fork."""
        library, code_shift = file.found, self.procfs.code_shift(pid, file.mapped)
        version = _NAME.fullmatch(os.path.basename(file.mapped.path))
        if not isinstance(library, PythonLibrary) or code_shift is None or version is None:
            return False
        if flags & TARGET_READS_OUTSIDE and not file.has_rare_probes:
            self.files.attach(file, _probe("on_context_entered", library.entry))
            file.has_rare_probes = True
            if pid not in file.users:
                return False  # it has ended meanwhile
        storage_key, context = _LAYOUTS.get(int(version[1]), (0, 0))
        address = library.type_address - library.code_shift + code_shift
        value = _INTERPRETER.pack(time.monotonic_ns(), address, storage_key, context, 0, 0, 0, 0)
        return self.files.follow(pid, "interpreters", value, "interpreter")

    def _add_greenlets(self, pid: int, mapped: MappedFile, library: GreenletLibrary) -> None:
        """Which thread-local storage is greenlet's, the loader has written into the process; a moment after it was mapped."""
        code_shift, key = self.procfs.code_shift(pid, mapped), PID.pack(pid)
        known = self.loaded.maps["interpreters"].lookup(key)
        if code_shift is None or known is None:
            return
        shift = code_shift - library.code_shift
        module = int.from_bytes(self.procfs.memory(pid, library.module_slot + shift, 8) or b"", "little")
        if not 0 < module < _MAX_MODULES:
            self._too_early[pid] = None
            return
        fields = _INTERPRETER.unpack(known)[:6]
        value = _INTERPRETER.pack(*fields, library.type_address + shift, module)
        self.loaded.maps["interpreters"].update(key, value)

    def _tell_of(self, file: Interpreter, trouble: str) -> None:
        self.files.tell(f"calls of {file.path} have no parent: {trouble}")


def _probes(library: Library) -> list[Probe]:
    """What frees contexts first: from then on no owner outlives its address."""
    if isinstance(library, QueueLibrary):
        return [_probe("on_job_taken", *library.gets), _probe("on_job_put", library.put)]
    kind = _IS_GREENLET if isinstance(library, GreenletLibrary) else 0
    births = [(offset, register | kind) for offset, register in library.births]
    return [_probe("on_context_freed", library.death), _probe("on_context_made", *births)]


def _probe(program: str, *spots: Spot) -> Probe:
    return Probe(program, [Place(*spot) for spot in spots])


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
