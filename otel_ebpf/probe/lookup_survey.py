"""Which C libraries processes have mapped now, and how probes on their getaddrinfo would be placed. Nothing is attached.

In:   process numbers
Out:  one SurveyedLibrary for each file
Owns: nothing
"""

import os
from collections.abc import Iterable

from otel_ebpf.probe.function_places import FunctionPlaces
from otel_ebpf.probe.function_watch import MAX_FILES
from otel_ebpf.probe.lookup_watch import is_libc, lookup_inspector
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_survey import SurveyedLibrary


def survey_lookups(pids: Iterable[int], procfs: Procfs) -> list[SurveyedLibrary]:
    users: dict[MappedFile, int] = {}
    for pid in pids:
        for mapped in filter(is_libc, procfs.mapped_files(pid)):
            if len(users) < MAX_FILES:
                users.setdefault(mapped, pid)
    inspector, found = lookup_inspector(), list[SurveyedLibrary]()
    for mapped, pid in users.items():
        file = procfs.open_mapped(pid, mapped)
        if file is None:
            continue
        inspector.start([file])
        os.close(file)
        (places,) = inspector.finish()
        found.append(SurveyedLibrary(os.fsdecode(mapped.path), places is not None, _detail(places)))
    return found


def _detail(places: FunctionPlaces | None) -> str:
    if places is None:
        return "not seen: its getaddrinfo could not be made out"
    if all((places.is_emulated, *(end.is_emulated for end in places.ends))):
        return "probes where the kernel emulates the instruction: 1 to 2 us a lookup, of any process"
    return "probes where the kernel has to single-step: 10 us and more a lookup, of any process"
