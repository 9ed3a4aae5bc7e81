"""A watch between processes and a kernel of the test: files are real ones, attachments a list.

In:   how to make the watch; who maps what, as the test says
Out:  what is attached, and what the maps hold
Owns: nothing; whatever the watch has opened must be closed in the end
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import uprobes
from otel_ebpf.probe.probed_files import LINGER_TICKS
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.uprobes import Place, UprobeForm
from otel_ebpf.probe.watcher import Watch
from tests.services.settling import settle

SomeWatch = TypeVar("SomeWatch", bound=Watch)


class Map(dict[bytes, bytes]):
    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def lookup(self, key: bytes) -> bytes | None:
        return self.get(key)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:  # type: ignore[override]
        if flags and key in self:
            raise FileExistsError
        self[key] = value


@dataclass
class Attached:
    form: UprobeForm
    program: str
    inode: int
    places: list[Place]
    at_return: bool
    descriptor: int


def opened_as(descriptor: int) -> str:
    """A number that was closed may be another file's by now."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").removeprefix("/memfd:").removesuffix(" (deleted)")
    except FileNotFoundError:
        return ""


@dataclass
class Kernel:
    """In the place of the real one: what is attached is what has not been closed."""

    made: list[Attached] = field(default_factory=list)
    refused: Sequence[str] = ()  # programs that cannot be attached
    unloadable: Sequence[str] = ()  # others
    provided: set[str] = field(default_factory=set)  # maps that are put into their place
    has_memory: bool = True

    def attach(
        self, form: UprobeForm, program: str, path: str, places: Sequence[Place], *, at_return: bool = False
    ) -> list[int]:
        assert places
        if program in self.refused:
            raise OSError(95, "Operation not supported")
        descriptor = os.memfd_create(f"attachment-{len(self.made)}")
        self.made.append(Attached(form, program, os.stat(path).st_ino, list(places), at_return, descriptor))
        return [descriptor]

    def program(self, name: str) -> str:
        if name in self.unloadable:
            raise ProbeError(f"the kernel refuses the program {name}")
        return name

    def provide(self, name: str) -> None:
        if not self.has_memory:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self.provided.add(name)

    @property
    def attached(self) -> list[Attached]:
        return [one for number, one in enumerate(self.made) if opened_as(one.descriptor) == f"attachment-{number}"]

    @property
    def programs(self) -> list[str]:
        return [one.program for one in self.attached]


class Processes(Procfs):
    """What each has mapped is said by the test, its executable first."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped: dict[int, list[MappedFile]] = {}

    def executable(self, pid: int) -> bytes | None:
        return self.mapped[pid][0].path if pid in self.mapped else None

    def mapped_files(self, pid: int) -> list[MappedFile]:
        return list(self.mapped.get(pid, []))

    def path_in_root(self, pid: int, path: bytes) -> bytes:
        return path if pid in self.mapped else b"/nonexistent"


def mapped(path: Path) -> MappedFile:
    return MappedFile(path.stat().st_ino, path.stat().st_dev, os.fsencode(path))


@dataclass
class Stage(Generic[SomeWatch]):
    watch: SomeWatch
    kernel: Kernel
    processes: Processes
    maps: dict[str, Map]

    def maps_file(self, pid: int, *paths: Path) -> None:
        """And the agent is told of it."""
        self.processes.mapped.setdefault(pid, []).extend(mapped(path) for path in paths)
        self.watch.look_at(pid)

    def look_at(self, *pids: int) -> None:
        """And what there is to find out is waited for."""
        for pid in pids:
            self.watch.look_at(pid)
        self.settle()

    def settle(self) -> None:
        settle(self.watch)

    def exit(self, pid: int) -> None:
        self.processes.mapped.pop(pid, None)
        self.watch.forget(pid)

    def wait(self) -> None:
        """For as long as probes stay without a user."""
        for _ in range(LINGER_TICKS + 1):
            self.watch.tick()


@contextmanager
def staged(
    make: Callable[[Any, Processes], SomeWatch],
    programs: Sequence[str],
    maps: Sequence[str],
    processes: Processes | None = None,
) -> Iterator[Stage[SomeWatch]]:
    """Nothing that was opened is left in the end."""
    before = len(os.listdir("/proc/self/fd"))
    kernel, processes, made = Kernel(), processes or Processes(), {name: Map() for name in maps}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uprobes, "attach", kernel.attach)
        loaded = SimpleNamespace(maps=made, has=programs.__contains__, program=kernel.program, provide=kernel.provide)
        stage = Stage(make(loaded, processes), kernel, processes, made)
        try:
            yield stage
        finally:
            stage.watch.close()
    assert [] == kernel.attached
    assert before == len(os.listdir("/proc/self/fd"))
