"""Follows the goroutines of targets that are Go programs, so that the kernel side can tell which request is worked on.

In:   see program_watch.py
Out:  entries of the map `go_programs`
Owns: nothing more
"""

import mmap
import os
import struct
import time
from contextlib import suppress
from typing import Any

from otel_ebpf.probe.go_findings import GoProgram, Layout
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.probed_files import ProbedFile
from otel_ebpf.probe.program_watch import ProgramWatch
from otel_ebpf.probe.uprobes import Place, Probe

TARGET_IS_GO = 16
_MARK = b"\xff Go buildinf:"
_PROGRAM = struct.Struct("<QIIII8x")  # struct go_program
Finding = GoProgram | str | None


class GoWatch(ProgramWatch[GoProgram]):
    """By its goroutines."""

    name, flag, needs, entries = "Go", TARGET_IS_GO, "on_goroutine_born", "go_programs"

    def inspector(self) -> FileInspector[Finding]:
        return FileInspector(_examine, _decode)

    def attach(self, file: ProbedFile[Finding]) -> None:
        """Goroutines that are born last of all: what writes for others is known as such before it can inherit anything."""
        found = file.found
        if isinstance(found, str):
            file.trouble = found
        elif found is not None:
            of_net_http = [
                ("on_round_trip", found.round_trip),
                ("on_connection_write", found.write),
                ("on_request_handled", found.handled),
            ]
            places = [*(place for place in of_net_http if place[1]), ("on_goroutine_born", found.born)]
            self.files.attach(file, *(Probe(program, [Place(offset, 0)]) for program, offset in places))

    def value_of(self, program: GoProgram) -> bytes:
        return _PROGRAM.pack(time.monotonic_ns(), *program.layout)


def _examine(file: int) -> object:
    with suppress(ValueError, OSError), mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
        if content.find(_MARK) < 0:
            return None
    from otel_ebpf.probe import go_program  # here: the parent needs no decoder
    from otel_ebpf.probe.elf_image import UnreadableTlsError
    from otel_ebpf.probe.go_image import NoGoError

    try:
        with open(os.dup(file), "rb") as opened:
            return go_program.inspect(opened)
    except NoGoError:
        return None
    except UnreadableTlsError as error:
        return str(error)


def _decode(row: Any) -> Finding:
    if row is None or isinstance(row, str):
        return row
    layout, *places = row
    return GoProgram(Layout(*layout), *places)
