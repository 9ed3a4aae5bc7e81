"""Which TLS libraries processes have mapped now, and how their probes would be placed. Nothing is attached.

In:   process numbers
Out:  one SurveyedLibrary for each file that holds TLS functions
Owns: nothing
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from otel_ebpf.probe.inspector import Finding, Inspector
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_functions import GoTls, TlsLibrary

_MAX_FILES = 4096
_BATCH = 64


@dataclass(frozen=True, slots=True)
class SurveyedLibrary:
    path: str
    is_read: bool
    detail: str  # for people


def survey(pids: Iterable[int], procfs: Procfs) -> list[SurveyedLibrary]:
    users: dict[MappedFile, int] = {}
    for pid in pids:
        for mapped in procfs.mapped_files(pid):
            if len(users) < _MAX_FILES:
                users.setdefault(mapped, pid)
    files = list(users.items())
    found: list[SurveyedLibrary] = []
    for at in range(0, len(files), _BATCH):
        for mapped, finding in _inspected(files[at : at + _BATCH], procfs):
            if finding is not None:
                path = os.fsdecode(mapped.path)
                found.append(SurveyedLibrary(path, not isinstance(finding, str), _detail(finding)))
    return found


def _inspected(files: list[tuple[MappedFile, int]], procfs: Procfs) -> list[tuple[MappedFile, Finding]]:
    opened = [(mapped, file) for mapped, pid in files if (file := procfs.open_mapped(pid, mapped)) is not None]
    inspector, found = Inspector(), list[tuple[MappedFile, Finding]]()
    while rest := opened[len(found) :]:
        inspector.start([file for _, file in rest])
        found += zip((mapped for mapped, _ in rest), inspector.finish(), strict=False)
    for _, file in opened:
        os.close(file)
    return found


def _detail(finding: TlsLibrary | GoTls | str) -> str:
    if isinstance(finding, str):
        return f"not read: {finding}"
    if isinstance(finding, GoTls):
        return f"crypto/tls of Go {finding.version}: probes where the kernel emulates the instruction: 1 to 2 us a call"
    slow = [function.name for function in finding.functions if not function.is_emulated]
    if slow:
        return f"probes on {' and '.join(slow)}, which the kernel has to single-step: 10 us and more a call"
    return "probes where the kernel emulates the instruction: 1 to 2 us a call"
