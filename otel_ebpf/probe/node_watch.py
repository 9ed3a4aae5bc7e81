"""Follows the callbacks of targets that run Node, so that the kernel side can tell which request is worked on.

In:   which processes are targets, which programs they run, what the inspector finds, what the kernel side counts
Out:  attachments; entries of the map `node_programs`; which processes are followed
Owns: the attachments, each for as long as a target runs its file, and a moment longer

A program that cannot be read, or that bears only some of its probes, gets no entry: its calls have no parent.
"""

import os
import re
import struct
import time
from typing import Any

from otel_ebpf.probe.bpf import BPF_NOEXIST
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import PID
from otel_ebpf.probe.node_findings import Layout, NodeProgram, Promises
from otel_ebpf.probe.probed_files import Patiently, ProbedFile, ProbedFiles
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.uprobes import Place, Probe, UprobeForm

TARGET_IS_NODE = 32
_UNSEEN = "it has no symbols, unlike the builds of nodejs.org"
_NAME = re.compile(rb"(?:node|nodejs)(?:-?v?[0-9][0-9.]*)?")
_PROGRAM = struct.Struct("<QQQQQIIIIIIIIIIIII4x")  # struct node_program
Finding = NodeProgram | str | None


class NodeWatch:
    """`form` None: callbacks are not followed, and nothing is looked at."""

    def __init__(
        self,
        loaded: Loaded,
        form: UprobeForm | None,
        procfs: Procfs,
        patiently: Patiently = lambda attaching: attaching(),
    ) -> None:
        """`patiently`: how to do what takes milliseconds; `look_at` must not be called meanwhile."""
        inspector = FileInspector(_examine, _decode)
        self._files = ProbedFiles(inspector, loaded, form, "on_node_made", procfs, patiently)
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
        return TARGET_IS_NODE if pid in self._followed else 0

    def look_at(self, pid: int) -> None:
        """A new target, or one that runs another program. What `target_flags` says may change by it."""
        if self._files.form is None:
            return
        path = self._procfs.executable(pid)
        mapped = next((one for one in self._procfs.mapped_files(pid) if one.path == path and is_node(one)), None)
        if [mapped] != [file.mapped for file in self._files.used_by(pid)]:
            self.forget(pid)
        if mapped is None:
            return
        found = self._files.use(pid, mapped).found
        if isinstance(found, NodeProgram):
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
            self._loaded.maps["node_programs"].delete(PID.pack(pid))

    def tick(self) -> None:
        """Once a second."""
        for file in self._files.tick():
            self._files.give_back(file)
        for pid in self._followed:
            known = self._loaded.maps["node_programs"].lookup(PID.pack(pid))
            if known is not None:
                self._tell_counts(pid, *_PROGRAM.unpack(known)[-3:])

    def close(self) -> None:
        """What nobody follows any more has no owners, though sockets are watched still."""
        for pid in list(self._followed):
            self.forget(pid)
        self._files.close()

    def _attach_if_possible(self, file: ProbedFile[Finding]) -> None:
        if not self._files.is_in_use(file):
            self._files.leave_to_next(file)
        elif isinstance(file.found, NodeProgram):
            self._attach(file, file.found)
        else:
            file.trouble = file.found or _UNSEEN
        if file.trouble:
            self._files.tell(f"calls of {file.path} have no parent: {file.trouble}")

    def _attach(self, file: ProbedFile[Finding], found: NodeProgram) -> None:
        self._files.attach(file, Probe("on_node_made", [Place(found.made, 0)]))
        if not file.links or "on_node_then" not in self._loaded.programs:
            return
        why = found.why_none
        if found.promises is not None:
            why = self._files.attach_more(file, *_probes(found.promises))
        if why:
            self._files.tell(f"what {file.path} calls behind an await has no parent: {why}")

    def _follow(self, pid: int, layout: Layout) -> None:
        value = _PROGRAM.pack(time.monotonic_ns(), *layout, 0, 0, 0)
        try:
            self._loaded.maps["node_programs"].update(PID.pack(pid), value, BPF_NOEXIST)
        except FileExistsError:
            pass  # with what the kernel has counted
        except OSError as error:
            self._files.tell(
                f"calls of process {pid} have no parent: no room for another Node program: {error.strerror}"
            )
            return
        self._followed.add(pid)

    def _tell_counts(self, pid: int, threads_full: int, unread: int, queues: int) -> None:
        if threads_full:
            self._files.tell(f"some calls of process {pid} have no parent: too many threads of this host run Node")
        if unread:
            self._files.tell(
                f"some calls of process {pid} have no parent: its callbacks have no numbers where Node keeps them"
            )
        if queues:
            self._files.tell(f"some calls of process {pid} have no parent: it has more than one queue of jobs")


def _probes(promises: Promises) -> list[Probe]:
    """What ends something before what begins it."""
    places = (
        ("on_node_collected", (promises.collected,)),
        ("on_node_jobs_end", (promises.jobs_end,)),
        ("on_node_jobs", (promises.jobs,)),
        ("on_node_other_job", (promises.other_job,)),
        ("on_node_job", promises.job),
        ("on_node_then_end", (promises.then_end,)),
        ("on_node_then", (promises.then,)),
    )
    return [Probe(name, [Place(offset, 0) for offset in offsets]) for name, offsets in places]


def is_node(mapped: MappedFile) -> bool:
    return _NAME.fullmatch(os.path.basename(mapped.path)) is not None


def _examine(file: int) -> object:
    from otel_ebpf.probe import node_program  # here: the parent needs no decoder
    from otel_ebpf.probe.elf_image import UnreadableTlsError

    try:
        with open(os.dup(file), "rb") as opened:
            return node_program.inspect(opened)
    except node_program.NoNodeError:
        return None
    except UnreadableTlsError as error:
        return str(error)


def _decode(row: Any) -> Finding:
    if row is None or isinstance(row, str):
        return row
    layout, made, promises, why_none = row
    found = None
    if promises is not None:
        jobs, jobs_end, job, *others = promises
        found = Promises(jobs, jobs_end, tuple(job), *others)
    return NodeProgram(Layout(*layout), made, found, why_none)
