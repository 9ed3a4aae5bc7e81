"""How this kernel attaches programs to instructions of user space, and the attaching.

In:   which kernel this is, found out by trying; files, offsets, program descriptors
Out:  the form; descriptors of attachments, one or more for all places of one file; OSError as the kernel gave it
Owns: nothing; closing a descriptor detaches

  SESSION  one program at entry and return, which says at each entry whether the return is wanted: Linux 6.13
  MULTI    all places of a file in one attachment: Linux 6.6
  PERF     one perf event for each place: Linux 5.15. Detaching takes 0.1 s each.
"""

import contextlib
import enum
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.probe import bpf

_PMU = Path("/sys/bus/event_source/devices/uprobe")
_PERF_RETURN = 1  # bit 0 of config, by format/retprobe
_NOTHING = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit
_EXECUTABLE_BYTES = 4096
_IN_SESSION = 1 << 63


class UprobeForm(enum.Enum):
    """The value is what programs are loaded with, as their expected attach type."""

    SESSION = 57
    MULTI = 48
    PERF = 0

    @property
    def of_instructions(self) -> "UprobeForm":
        """How this kernel attaches to instructions where no return is asked for."""
        return UprobeForm.MULTI if self is UprobeForm.SESSION else self


class Place(NamedTuple):
    offset: int  # in the file
    cookie: int


class Probe(NamedTuple):
    program: str
    places: Sequence[Place]
    at_return: bool = False


def available_forms() -> Iterator[UprobeForm]:
    """Those that this kernel and these rights allow, the best first."""
    with _empty_file() as path:
        for form in UprobeForm:
            with contextlib.suppress(OSError):
                program = bpf.load_program(
                    bpf.BPF_PROG_TYPE_KPROBE, _NOTHING, "nothing", expected_attach_type=form.value
                )[0]
                try:
                    close_all(attach(form, program, path, [Place(0, 1)]))
                    yield form
                finally:
                    os.close(program)


def attach(form: UprobeForm, program: int, path: str, places: Sequence[Place], *, at_return: bool = False) -> list[int]:
    """All places or none. What is attached as a session sees so by its cookie: no_return_wanted in bpf/tls.c."""
    if form is UprobeForm.SESSION:
        places = [place._replace(cookie=place.cookie | _IN_SESSION) for place in places]
    if form is not UprobeForm.PERF:
        return [bpf.link_uprobes(program, form.value, path, places, at_return=at_return)]
    links: list[int] = []
    try:
        kind = int((_PMU / "type").read_text())
        for place in places:
            links += bpf.link_perf_uprobe(program, kind, _PERF_RETURN if at_return else 0, path, *place)
    except BaseException:
        close_all(links)
        raise
    return links


def attach_all(form: UprobeForm, program: Callable[[str], int], path: str, probes: Iterable[Probe]) -> list[int]:
    """All of them or none, in this order. `program` has the descriptor of each by its name."""
    links: list[int] = []
    try:
        for name, places, at_return in probes:
            links += attach(form, program(name), path, places, at_return=at_return)
    except BaseException:
        close_all(links)
        raise
    return links


def close_all(links: Iterable[int]) -> None:
    for link in links:
        os.close(link)


@contextlib.contextmanager
def _empty_file() -> Iterator[str]:
    """One that nobody runs: attaching to it disturbs nobody."""
    fd = os.memfd_create("otel-ebpf-uprobe", os.MFD_CLOEXEC)
    try:
        os.write(fd, bytes(_EXECUTABLE_BYTES))
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
