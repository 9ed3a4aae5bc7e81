"""What BPF programs have cost so far, by the kernel's own account: it reads the clock before and after each run.

In:   pids that hold programs
Out:  nanoseconds, how many runs
Owns: the kernel's statistics, switched on as long as `KernelTime` lives

A program that another one goes on with (a tail call) is counted with that one. Both readings of the clock are in it: 20 to
40 ns a run.
"""

import ctypes
import os
import struct
from types import TracebackType
from typing import NamedTuple, Self

from tests.end_to_end.bpf_objects import (
    BPF_OBJ_GET_INFO_BY_FD,
    BPF_PROG_GET_FD_BY_ID,
    INFO_BYTES,
    bpf,
    loaded_programs,
    programs_held_by,
)

BPF_ENABLE_STATS, BPF_STATS_RUN_TIME = 32, 0
RUN_TIME_OFFSET = 192  # of run_time_ns and run_cnt in struct bpf_prog_info


class Runs(NamedTuple):
    ns: int
    count: int

    def since(self, before: "Runs") -> "Runs":
        return Runs(self.ns - before.ns, self.count - before.count)


class KernelTime:
    def __enter__(self) -> Self:
        self._fd, _ = bpf(BPF_ENABLE_STATS, struct.pack("<I", BPF_STATS_RUN_TIME))
        assert self._fd >= 0, f"no statistics of BPF programs: {os.strerror(-self._fd)}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def of(self, *pids: int) -> Runs:
        """Of all programs that these processes hold; the host's calls are in it, too."""
        found = [_runs(program_id) for program_id in programs_held_by(list(pids))]
        return Runs(sum(runs.ns for runs in found), sum(runs.count for runs in found))

    def by_program(self, *pids: int) -> dict[str, Runs]:
        """The same, by the first 15 letters of their names."""
        names = loaded_programs()
        return {names[program_id]: _runs(program_id) for program_id in programs_held_by(list(pids))}


def _runs(program_id: int) -> Runs:
    fd, _ = bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("<III", program_id, 0, 0))
    assert fd >= 0, f"program {program_id}: {os.strerror(-fd)}"
    try:
        info = ctypes.create_string_buffer(INFO_BYTES)
        result, _ = bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, INFO_BYTES, ctypes.addressof(info)))
        assert result == 0, f"program {program_id}: {os.strerror(-result)}"
        return Runs(*struct.unpack_from("<QQ", info.raw, RUN_TIME_OFFSET))
    finally:
        os.close(fd)
