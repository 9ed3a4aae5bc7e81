"""Processes that are targets no more while what they have begun goes on: a program that a target has started, for one.

In:   who leaves
Out:  entries of the map `targets` without a service, and later none
Owns: who has left, until nothing is left of it

Were they dropped at once, an exchange in hand would be seen by half, and what was not seen be taken for what was not.
"""

import struct
from contextlib import suppress

from otel_ebpf.probe.bpf import BPF_EXIST
from otel_ebpf.probe.maps import PID, TARGET, Map

CONNECTION_PID = struct.Struct("<44xI")  # struct connection: who has its exchange in hand


class LeavingProcesses:
    def __init__(self, targets: Map, connections: Map) -> None:
        self._targets = targets
        self._connections = connections
        self._pids: set[int] = set()

    def leave(self, pid: int) -> None:
        """From now on it begins nothing that is seen."""
        before = self._targets.lookup(PID.pack(pid))
        if before is None:
            return  # it has ended
        _, flags = TARGET.unpack(before)
        with suppress(FileNotFoundError):  # just now
            self._targets.update(PID.pack(pid), TARGET.pack(0, flags), BPF_EXIST)
            self._pids.add(pid)

    def sweep(self) -> None:
        """Now and then: whoever has nothing in hand any more pays no longer for being looked at."""
        if not self._pids:
            return
        busy = {CONNECTION_PID.unpack_from(value)[0] for _, value in self._connections.items()}
        for pid in self._pids - busy:
            entry = self._targets.lookup(PID.pack(pid))
            if entry is not None and not TARGET.unpack(entry)[0]:  # else it is a target again, or another process
                self._targets.delete(PID.pack(pid))
        self._pids &= busy
