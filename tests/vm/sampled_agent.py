"""`otel-ebpf run`, with its exporter looked at every million instructions: `python tests/vm/sampled_agent.py FILE`.

In:   where to write
Out:  FILE: one line for each function that was found innermost, with how often, once the agent has ended
Owns: nothing

The kernel sends a signal for so much CPU time of the exporter's main thread, and Python's handler sees the frame that was
running. What a function has C code do for it is counted as its own.
"""

import collections
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from otel_ebpf import cli, supervisor
from otel_ebpf.config import Settings
from otel_ebpf.records.recording import OpenRecording

PERIOD_NS = 1_000_000
SYS_PERF_EVENT_OPEN = 298
PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK = 1, 1
ATTRIBUTES_BYTES = 128
F_SETSIG, F_SETOWN_EX, F_OWNER_TID = 10, 15, 0
HERE = os.path.basename(__file__)

Seen = collections.Counter[str]


def start(seen: Seen) -> None:
    def look(_signal: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)  # of Python 3.11 on
            seen[f"{Path(code.co_filename).stem}.{name}"] += 1

    signal.set_wakeup_fd(-1)  # the probe's, inherited: it would be woken by each signal
    signal.signal(signal.SIGUSR2, look)
    signal.siginterrupt(signal.SIGUSR2, False)
    attributes = struct.pack("=IIQQ", PERF_TYPE_SOFTWARE, ATTRIBUTES_BYTES, PERF_COUNT_SW_TASK_CLOCK, PERIOD_NS)
    libc = ctypes.CDLL(None, use_errno=True)
    event = libc.syscall(SYS_PERF_EVENT_OPEN, attributes.ljust(ATTRIBUTES_BYTES, b"\0"), 0, -1, -1, 0)
    if event < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    fcntl.fcntl(event, F_SETSIG, signal.SIGUSR2)
    fcntl.fcntl(event, F_SETOWN_EX, struct.pack("=ii", F_OWNER_TID, os.getpid()))
    fcntl.fcntl(event, fcntl.F_SETFL, os.O_ASYNC)


def sampled(run_exporter: Callable[..., int], file: Path) -> Callable[..., int]:
    def run_and_tell(settings: Settings, channel: socket.socket, recording: OpenRecording | None) -> int:
        from otel_ebpf.export.process import Exporter  # in this process alone, as there

        run = Exporter.run
        seen: Seen = collections.Counter()

        def run_looked_at(exporter: Exporter, channel: socket.socket) -> int:
            start(seen)
            return run(exporter, channel)

        Exporter.run = run_looked_at  # type: ignore[method-assign]
        with open(file, "w") as output:  # with rights that are dropped meanwhile
            try:
                return run_exporter(settings, channel, recording)
            finally:
                signal.signal(signal.SIGUSR2, signal.SIG_IGN)
                output.writelines(f"{count} {name}\n" for name, count in seen.most_common())

    return run_and_tell


def main() -> int:
    supervisor._run_exporter = sampled(supervisor._run_exporter, Path(sys.argv[1]))
    return cli.main(["run"])


if __name__ == "__main__":
    sys.exit(main())
