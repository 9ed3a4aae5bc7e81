"""Reads what the kernel has counted for each service, and tells what has changed.

In:   the BPF map `ledger`, which services there are, the time
Out:  frames; only for services of which something has changed
Owns: what was told last; counts of services that have ended, whose entries of the map are given back soon
"""

import contextlib
import struct
from collections.abc import Mapping
from typing import Protocol

from otel_ebpf.records.frames import Frame, LedgerClosed
from otel_ebpf.records.kinds import Counter, LedgerReading

COUNTS = struct.Struct(f"<{len(Counter)}Q")  # struct ledger_entry
SHARED = 0  # service_pid of the entry that takes what finds no room
_KEY = struct.Struct("<I")
_ROWS_A_FRAME = 150  # of at most 17 numbers of 20 digits: 54 KB of the 64 that a frame may have
_TAKE_AFTER_NS = 2_000_000_000  # its last connections are closed by then; short-lived services must not fill the map
_CLOSE_AFTER_NS = 30_000_000_000  # for a while its account is shown on its own

Counts = tuple[int, ...]
_NONE: Counts = (0,) * len(Counter)


class LedgerMap(Protocol):
    """probe.maps.Map, as far as it is needed here."""

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None: ...
    def items(self) -> list[tuple[bytes, bytes]]: ...
    def take(self, key: bytes) -> bytes | None: ...


class LedgerWatch:
    def __init__(self, ledger: LedgerMap) -> None:
        self._map = ledger
        self._map.update(_KEY.pack(SHARED), COUNTS.pack(*_NONE))
        self._taken: dict[int, Counts] = {}  # from entries that were given back
        self._told: dict[int, tuple[int, Counts]] = {}
        self._gone_since_ns: dict[int, int] = {}

    def read(self, processes: Mapping[int, int], now_ns: int) -> list[Frame]:
        """`processes`: how many each service has now."""
        entries = {_KEY.unpack(key)[0]: COUNTS.unpack(value) for key, value in self._map.items()}
        for pid in [pid for pid in self._gone_since_ns if pid in processes]:
            del self._gone_since_ns[pid]
        closed: list[int] = []
        for pid in (entries.keys() | self._told.keys() | self._taken.keys()) - processes.keys() - {SHARED}:
            gone_ns = now_ns - self._gone_since_ns.setdefault(pid, now_ns)
            if gone_ns >= _TAKE_AFTER_NS and pid in entries:
                self._take(pid)
                del entries[pid]
            if gone_ns >= _CLOSE_AFTER_NS:
                closed.append(pid)
        rows = []
        for pid in entries.keys() | self._taken.keys() | processes.keys():
            counts = _sum(self._taken.get(pid, _NONE), entries.get(pid, _NONE))
            state = (processes.get(pid, 0), counts)
            is_worth_telling = pid in processes or counts != _NONE
            if is_worth_telling and self._told.get(pid) != state:
                self._told[pid] = state
                rows.append((pid, state[0], *counts))
        frames: list[Frame] = [
            LedgerReading(tuple(rows[at : at + _ROWS_A_FRAME])) for at in range(0, len(rows), _ROWS_A_FRAME)
        ]
        return frames + [LedgerClosed(pid) for pid in closed if self._forget(pid)]

    def _take(self, pid: int) -> None:
        last = self._map.take(_KEY.pack(pid))
        if last is not None:
            self._taken[pid] = _sum(self._taken.get(pid, _NONE), COUNTS.unpack(last))

    def _forget(self, pid: int) -> bool:
        """True when the service had been told of."""
        for table in (self._taken, self._gone_since_ns):
            with contextlib.suppress(KeyError):
                del table[pid]
        return self._told.pop(pid, None) is not None


def _sum(one: Counts, other: Counts) -> Counts:
    return tuple(a + b for a, b in zip(one, other, strict=True))
