"""Keeps the probes in the TLS libraries of targets.

In:   which processes are targets, what they have mapped, what the inspector finds
Out:  attachments; layouts in the map `tls_layouts`; which processes bear no return probe
Owns: the attachments, each for as long as a target uses its file, and a moment longer

A file is attached to once, whoever maps it: a process that forks a moment later is covered. Other processes that share
it pay for the question whether they are targets, and nothing else.
"""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from otel_ebpf.errors import ProbeError, printable
from otel_ebpf.probe.inspector import Finding, Inspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.probed_files import LINGER_TICKS, REPLACED, Patiently, tell_every_mapping, tell_first_mapping
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_functions import Function, GoTls, TlsLibrary
from otel_ebpf.probe.uprobes import Place, Probe, UprobeForm, attach_all, close_all

TARGET_EXCLUDED = 1
TARGET_WITHOUT_RETURN_PROBES = 2
MAX_LIBRARIES = 256
MAX_FILES = 4096  # that are remembered
_BATCH = 64  # files that one child looks into
_LAYOUT = struct.Struct("<HHHHIHH")  # struct tls_layout
_HAS_TLS, _SWITCHES_STACKS = 1, 2  # enum mapped_file
_STACK_SWITCHERS = (b"/greenlet/", b"_greenlet.")
_WRITES, _COUNT_SHIFT, _OF_FILE, _AT_RET = 1 << 8, 9, 1 << 12, 1 << 13  # COOKIE_ in bpf/tls.c


@dataclass(slots=True)
class Library:
    """A file with TLS functions."""

    path: str
    found: TlsLibrary | GoTls | None  # None: it is not read
    index: int = -1  # of its layout; a Go program needs none
    users: set[int] = field(default_factory=set)
    links: list[int] = field(default_factory=list)
    has_returns: bool = True
    trouble: str = ""


class TlsWatch:
    """`form` None: TLS is off, and nothing is looked at."""

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
        self._form = form if loaded.has("on_tls_return") else None
        self._procfs = procfs
        self._inspector = Inspector()
        self._libraries: dict[MappedFile, Library | None] = {}  # None: nothing to watch in it
        self._waiting: dict[MappedFile, None] = {}  # in this order
        self._in_hand: list[MappedFile] = []
        self._users: dict[int, set[MappedFile]] = {}  # of each target: the files that are known or asked for
        self._unused: dict[MappedFile, int] = {}  # since so many ticks
        self._switchers: set[int] = set()
        self._free_indexes = list(range(MAX_LIBRARIES))

    @property
    def libraries(self) -> list[Library]:
        return [library for library in self._libraries.values() if library is not None]

    @property
    def probed_count(self) -> int:
        """Files that have probes now."""
        return sum(bool(library.links) for library in self.libraries)

    @property
    def form_text(self) -> str:
        return f"uprobes ({self._form.name.lower()})" if self._form is not None else ""

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self._inspector.fileno()

    def read_names(self, pid: int) -> set[bytes]:
        """Of the libraries of this process that have probes."""
        found = ((mapped, self._libraries.get(mapped)) for mapped in self._users.get(pid, ()))
        return {os.path.basename(mapped.path) for mapped, library in found if library is not None and library.links}

    def target_flags(self, pid: int) -> int:
        return TARGET_WITHOUT_RETURN_PROBES if pid in self._switchers else 0

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something. What `target_flags` says may change by it."""
        if self._form is None:
            return
        files = self._procfs.mapped_files(pid)
        switchers = [mapped for mapped in files if any(name in mapped.path for name in _STACK_SWITCHERS)]
        if switchers and pid not in self._switchers:
            self._switchers.add(pid)
            for mapped in switchers:
                tell_every_mapping(self._loaded, mapped, _SWITCHES_STACKS)
        known = self._users.setdefault(pid, set())
        for mapped in files:
            known.add(mapped)
            if mapped not in self._libraries:
                if mapped not in self._in_hand:
                    self._waiting[mapped] = None
            elif (library := self._libraries[mapped]) is not None:
                self._use(library, mapped, pid)
        self.inspect()

    def forget(self, pid: int) -> None:
        self._switchers.discard(pid)
        for mapped in self._users.pop(pid, ()):
            library = self._libraries.get(mapped)
            if library is None:
                continue
            library.users.discard(pid)
            if not library.users:
                self._unused.setdefault(mapped, 0)

    def tick(self) -> None:
        """Once a second. Not at once: processes that live for a moment, such as curl, come one after the other."""
        for mapped in list(self._unused):
            self._unused[mapped] += 1
            if self._unused[mapped] > LINGER_TICKS:
                self._release(mapped)

    def inspect(self) -> None:
        if self._inspector.is_busy or not self._waiting:
            return
        opened: list[int] = []
        while self._waiting and len(opened) < _BATCH:
            mapped = next(iter(self._waiting))
            del self._waiting[mapped]
            # One of its users may have ended meanwhile; of the others nothing is told again.
            file = self._procfs.open_by_any((pid for pid, files in self._users.items() if mapped in files), mapped)
            if file is not None:
                opened.append(file)
                self._in_hand.append(mapped)
        if opened:
            self._inspector.start(opened)
        close_all(opened)

    def on_answer(self) -> None:
        """What the inspector has found, when it is all there: nobody waits for it."""
        if not self._inspector.receive():
            return
        findings = self._inspector.finish()
        for mapped, finding in zip(self._in_hand, findings, strict=False):
            self._remember(mapped, finding)
        self._waiting = {**dict.fromkeys(self._in_hand[len(findings) :]), **self._waiting}
        self._in_hand = []
        self.inspect()

    def close(self) -> None:
        self._inspector.close()
        for library in self.libraries:
            close_all(library.links)
            library.links = []

    def _find_users(self, mapped: MappedFile) -> list[int]:
        """All targets that map it now: while it was looked into, the kernel told of no further one."""
        found = []
        for pid, files in self._users.items():
            if mapped in files or mapped in self._procfs.mapped_files(pid):
                files.add(mapped)
                found.append(pid)
        return found

    def _remember(self, mapped: MappedFile, finding: Finding) -> None:
        if len(self._libraries) >= MAX_FILES:
            for other in [other for other, library in self._libraries.items() if library is None]:
                del self._libraries[other]
        if finding is None:
            self._libraries[mapped] = None
            return
        tell_every_mapping(self._loaded, mapped, _HAS_TLS)
        users = self._find_users(mapped)
        if not users:
            self._unused[mapped] = 0  # the last one ended while the file was looked into; the next has it at once
        path = os.fsdecode(mapped.path)
        if isinstance(finding, str) or (isinstance(finding, TlsLibrary) and not self._free_indexes):
            self._libraries[mapped] = Library(path, None, trouble=finding if isinstance(finding, str) else "too many")
            return
        library = Library(path, finding)
        self._libraries[mapped] = library
        if isinstance(finding, TlsLibrary):
            library.index = self._free_indexes.pop()
        for pid in users:
            self._use(library, mapped, pid)

    def _write_layout(self, index: int, found: TlsLibrary) -> None:
        layout = found.layout
        value = _LAYOUT.pack(
            layout.state_pointer,
            layout.random,
            layout.server_flag,
            layout.read_bio,
            layout.server_mask,
            layout.bio_method,
            layout.bio_number,
        )
        self._loaded.maps["tls_layouts"].update(struct.pack("<I", index), value)

    def _use(self, library: Library, mapped: MappedFile, pid: int) -> None:
        found = library.found
        if found is None or pid not in self._users:  # it may have been forgotten while another one's was attached
            return
        library.users.add(pid)
        self._unused.pop(mapped, None)
        needs_other_form = isinstance(found, TlsLibrary) and pid in self._switchers and library.has_returns
        if library.links and not needs_other_form:
            return
        if needs_other_form:
            library.has_returns = False
        file = self._procfs.open_mapped(pid, mapped)
        if file is None:
            library.trouble = REPLACED
            return
        try:
            links = self._patiently(lambda: self._attach(library, f"/proc/self/fd/{file}"))
        except OSError as error:
            library.trouble = f"cannot attach: {error.strerror}"
        except ProbeError as error:
            library.trouble = error.what
        else:
            close_all(library.links)
            library.links, library.trouble = links, ""
        finally:
            os.close(file)

    def _attach(self, library: Library, path: str) -> list[int]:
        form, found = self._form, library.found
        assert form is not None
        assert found is not None
        if isinstance(found, GoTls):
            return attach_all(form, self._loaded.program, path, _go_probes(found))
        self._loaded.program("on_tls_return")  # the map of layouts comes with it
        self._write_layout(library.index, found)
        return attach_all(form, self._loaded.program, path, _probes(library, found, form))

    def _release(self, mapped: MappedFile) -> None:
        del self._unused[mapped]
        library = self._libraries.pop(mapped)
        assert library is not None
        close_all(library.links)
        if library.index >= 0:
            self._free_indexes.append(library.index)
        tell_first_mapping(self._loaded, mapped)


def _go_probes(found: GoTls) -> list[Probe]:
    """Programs that say themselves that no return is wanted, whatever the form: it would end a Go program."""
    places = {"on_go_written": found.written, "on_go_write": found.write, "on_go_read": found.read}
    return [Probe(program, [Place(offset, 0)]) for program, offset in places.items()]


def _probes(library: Library, found: TlsLibrary, form: UprobeForm) -> list[Probe]:
    """Where stacks are switched, what a function moved is read behind its calls, as far as these are known.

    Return probes that are not a session's are set in every process that has the library, watched or not, and would
    end those that switch stacks: there, they are the last resort.
    """
    entries = [Place(function.offset, _cookie(library, function)) for function in found.functions]
    results = [
        Place(offset, _AT_RET if function.is_of_file else 0)
        for function in found.functions
        for offset in function.result_offsets
    ]
    are_results_known = all(function.result_offsets for function in found.functions)
    has_returns = library.has_returns and (form is UprobeForm.SESSION or not are_results_known)
    behind_calls = [Probe("on_tls_return", results)] if results and not has_returns else []
    if form is UprobeForm.SESSION:
        return [Probe("on_tls_call", entries), *behind_calls]
    at_returns = [Probe("on_tls_return", entries, at_return=True)] if has_returns else []
    return [*at_returns, Probe("on_tls_entry", entries), *behind_calls]


def _cookie(library: Library, function: Function) -> int:
    kind = (_WRITES if function.is_write else 0) | (_OF_FILE if function.is_of_file else 0)
    return library.index | kind | function.count_argument << _COUNT_SHIFT


def troubles(libraries: Iterable[Library]) -> list[str]:
    """For people: which TLS is not seen, and why."""
    return [
        f"TLS of {printable(library.path)} is not seen: {library.trouble}" for library in libraries if library.trouble
    ]
