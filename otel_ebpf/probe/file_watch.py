"""What all that keep probes in files of targets have in common, but for TLS.

In:   a program of the kernel's side that they need, and what looks into a file for them
Out:  what stands in the way of some, and a descriptor to wait for
Owns: the files
"""

from abc import ABC, abstractmethod
from typing import Generic

from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.probed_files import Found, Patiently, ProbedFiles, at_once
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.uprobes import UprobeForm


class FileWatch(ABC, Generic[Found]):
    """`form` None, or `needs` is not loaded: nothing is followed, and nothing is looked at."""

    needs: str  # a program of the kernel's side

    def __init__(self, loaded: Loaded, form: UprobeForm | None, procfs: Procfs, patiently: Patiently = at_once) -> None:
        """`patiently`: how to do what takes milliseconds; `look_at` must not be called meanwhile."""
        self.files = ProbedFiles(self.inspector(), loaded, form, self.needs, procfs, patiently)
        self.loaded = loaded
        self.procfs = procfs

    @abstractmethod
    def inspector(self) -> FileInspector[Found]:
        """What is there to be found in a file."""

    @property
    def troubles(self) -> list[str]:
        """For people: what is not seen, and why."""
        return self.files.troubles

    def fileno(self) -> int:
        """Readable when the inspector has an answer; -1 while it has nothing to do."""
        return self.files.fileno()

    def forget(self, pid: int) -> None:
        self.files.forget(pid)

    def close(self) -> None:
        self.files.close()
