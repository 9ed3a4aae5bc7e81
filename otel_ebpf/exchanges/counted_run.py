"""A run that is over for user space while the kernel goes on with it: it has been counted as a loss.

In:   the run
Out:  what its connection's next run needs to know of it
Owns: nothing

Nothing more is read of it. It stays in its connection's place all the same: the kernel may lose a record of it, too,
and then the next run must not be taken to miss one more; and numbers of exchanges go on from it.
"""

from typing import NamedTuple

from otel_ebpf.exchanges.exchange import OpenRequest
from otel_ebpf.records.kinds import Record


class CountedRun(NamedTuple):
    connection: int
    position: int
    service_pid: int
    extra: int
    lost: int  # as in Run
    is_unpaired: bool = False  # as in Run, of what comes next
    has_overlapped: bool = False

    @classmethod
    def of(cls, record: Record, extra: int, is_unpaired: bool = False) -> "CountedRun":
        return cls(record.connection, record.position, record.service_pid, extra, record.lost, is_unpaired)

    @property
    def owes_answers(self) -> bool:
        return self.is_unpaired

    @property
    def kept_bytes(self) -> int:
        return 0

    @property
    def is_settled(self) -> bool:
        return True

    @property
    def unread_request_bytes(self) -> int:
        return 0

    @property
    def pipelined_count(self) -> int:
        return 0

    @property
    def unseen_count(self) -> int:
        return 0

    @property
    def unreported_count(self) -> int:
        return 0

    @property
    def open_requests(self) -> list[OpenRequest]:
        return []
