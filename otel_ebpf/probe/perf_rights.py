"""Whether perf events may be opened, and whether CAP_PERFMON is enough for it, as it is in the mainline kernel.

In:   nothing but the kernel; asked by a child with that right and no other
Out:  OSError; yes or no
Owns: the child

Debian's kernels refuse it to all but CAP_SYS_ADMIN as long as kernel.perf_event_paranoid is 3, which is their default. The
sysctl's number says little: which right goes beyond it, each distribution says for itself.
"""

import contextlib
import os

from otel_ebpf.errors import AgentError
from otel_ebpf.probe import bpf
from otel_ebpf.probe.privileges import limit_capabilities

_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_DUMMY = 1, 9  # include/uapi/linux/perf_event.h


def try_perf_event() -> None:
    """OSError where this process may open none. This one counts nothing."""
    os.close(bpf.perf_event_open(_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_DUMMY, cpu=0))


def is_perfmon_enough() -> bool:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return status == 0
    status = 1
    try:
        with contextlib.suppress(OSError, AgentError):
            limit_capabilities({"CAP_PERFMON"})
            try_perf_event()
            status = 0
    finally:
        os._exit(status)
