"""Keeps the probes on getaddrinfo in the C libraries of targets: names that they look up before they connect.

In:   as function_watch.py
Out:  attachments
Owns: nothing beside them

Every process of the host that shares the file pays for the question whether it is a target, and nothing else.
"""

import re

from otel_ebpf.probe.function_places import FunctionPlaces
from otel_ebpf.probe.function_watch import FunctionWatch, WatchedFunction, function_inspector
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.procfs import MappedFile

_LIBC = re.compile(rb"/(libc\.so(\.6)?|libc-[0-9.]+\.so|(ld-|libc\.)musl-[^/]+)\Z")  # glibc; musl


def is_libc(mapped: MappedFile) -> bool:
    return _LIBC.search(mapped.path) is not None


_GETADDRINFO = WatchedFunction(
    name="getaddrinfo",
    at_begin="on_lookup_entry",
    at_end="on_lookup_end",
    is_in=is_libc,
    trouble="names that are looked up by {path} are not seen: {why}",
    too_many="names that are looked up are not all seen: more than {most} C libraries are in use",
)


def lookup_inspector() -> FileInspector[FunctionPlaces | None]:
    return function_inspector(_GETADDRINFO)


class LookupWatch(FunctionWatch):
    function, needs = _GETADDRINFO, _GETADDRINFO.at_end

    @property
    def form_text(self) -> str:
        form = self.files.form
        return f"uprobes on getaddrinfo ({form.name.lower()})" if form is not None else ""
