"""The programs with those on uprobes, and the watches that keep these in files, in one form of uprobes.

In:   compiled programs, which groups of them, which watches
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from otel_ebpf.probe.later_programs import offer
from otel_ebpf.probe.loader import Loaded, load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.programs import Part, ProgramGroup, programs_of
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm, available_forms
from otel_ebpf.probe.watcher import Watch
from tests.kernel.wire import Watched
from tests.services.settling import settle

FORMS = list(available_forms())
FORMS_OF_INSTRUCTIONS = list(dict.fromkeys(form.of_instructions for form in FORMS))
SomeWatch = TypeVar("SomeWatch", bound=Watch)


class Probed(Watched):
    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm, *groups: ProgramGroup) -> None:
        self.loaded = load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend))
        for group in groups:
            offer(self.loaded, form, group, partial(prepared.artifact, Part.UPROBES))
        super().__init__(self.loaded, hooks)
        self._form = form
        self._watches: list[Watch] = []

    def with_watch(self, make: Callable[[Loaded, UprobeForm, Procfs], SomeWatch]) -> SomeWatch:
        watch = make(self.loaded, self._form, Procfs())
        self._watches.append(watch)
        return watch

    def look(self, pid: int | None = None) -> None:
        """At this process, or at another one."""
        for watch in self._watches:
            watch.look_at(pid or os.getpid())
        for watch in self._watches:
            settle(watch)

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        super().close()
        self.loaded.close()
