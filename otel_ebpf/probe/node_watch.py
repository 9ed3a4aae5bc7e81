"""Follows the callbacks of targets that run Node, so that the kernel side can tell which request is worked on.

In:   see program_watch.py; what the kernel side counts
Out:  entries of the map `node_programs`
Owns: nothing more
"""

import os
import re
import struct
import time
from typing import Any

from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.maps import PID
from otel_ebpf.probe.node_findings import Layout, NodeProgram, Promises
from otel_ebpf.probe.probed_files import ProbedFile
from otel_ebpf.probe.procfs import MappedFile
from otel_ebpf.probe.program_watch import ProgramWatch
from otel_ebpf.probe.uprobes import Place, Probe

TARGET_IS_NODE = 32
_UNSEEN = "it has no symbols, unlike the builds of nodejs.org"
_NAME = re.compile(rb"(?:node|nodejs)(?:-?v?[0-9][0-9.]*)?")
_PROGRAM = struct.Struct("<QQQQQIIIIIIIIIIIII4x")  # struct node_program
Finding = NodeProgram | str | None


class NodeWatch(ProgramWatch[NodeProgram]):
    """By its callbacks."""

    name, flag, needs, entries = "Node", TARGET_IS_NODE, "on_node_made", "node_programs"

    def inspector(self) -> FileInspector[Finding]:
        return FileInspector(_examine, _decode)

    def may_be(self, mapped: MappedFile) -> bool:
        return is_node(mapped)

    def attach(self, file: ProbedFile[Finding]) -> None:
        found = file.found
        if not isinstance(found, NodeProgram):
            file.trouble = found or _UNSEEN
            return
        self.files.attach(file, Probe("on_node_made", [Place(found.made, 0)]))
        if not file.links or not self.loaded.has("on_node_then"):
            return
        why = found.why_none
        if found.promises is not None:
            why = self.files.attach_more(file, *_probes(found.promises))
        if why:
            self.files.tell(f"what {file.path} calls behind an await has no parent: {why}")

    def value_of(self, program: NodeProgram) -> bytes:
        return _PROGRAM.pack(time.monotonic_ns(), *program.layout, 0, 0, 0)

    def tick(self) -> None:
        super().tick()
        for pid in self.followed:
            known = self.loaded.maps[self.entries].lookup(PID.pack(pid))
            if known is not None:
                self._tell_counts(pid, *_PROGRAM.unpack(known)[-3:])

    def close(self) -> None:
        """What nobody follows any more has no owners, though sockets are watched still."""
        for pid in self.followed:
            self.forget(pid)
        super().close()

    def _tell_counts(self, pid: int, threads_full: int, unread: int, queues: int) -> None:
        if threads_full:
            self.files.tell(f"some calls of process {pid} have no parent: too many threads of this host run Node")
        if unread:
            self.files.tell(
                f"some calls of process {pid} have no parent: its callbacks have no numbers where Node keeps them"
            )
        if queues:
            self.files.tell(f"some calls of process {pid} have no parent: it has more than one queue of jobs")


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
