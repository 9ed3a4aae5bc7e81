"""A run that is over for user space while the kernel goes on with it: it has been counted as a loss.

In:   the run; what the kernel says of it later
Out:  what its connection's next run needs to know of it
Owns: nothing

Nothing more is read of it. It stays in its connection's place all the same: the kernel may lose a record of it, too,
and then the next run must not be taken to miss one more; and numbers of exchanges go on from it. Where it was the rest of a
body, that may go on: what comes next is a request only if just so much came.
"""

from typing import NamedTuple

from otel_ebpf.exchanges.exchange import OpenRequest
from otel_ebpf.records.kinds import Record

UNKNOWN_BYTES = -1


class CountedRun(NamedTuple):
    connection: int
    position: int
    service_pid: int
    extra: int
    lost: int  # as in Run
    is_unpaired: bool = False  # as in Run, of what comes next
    has_overlapped: bool = False
    owed_bytes: int = 0  # of a body whose rest it was, when it began, or UNKNOWN_BYTES; 0: it was none
    request_bytes: int = 0  # as far as it has been told

    @classmethod
    def of(cls, record: Record, extra: int, is_unpaired: bool = False, owed_bytes: int = 0) -> "CountedRun":
        return cls(
            record.connection,
            record.position,
            record.service_pid,
            extra,
            record.lost,
            is_unpaired,
            owed_bytes=owed_bytes,
            request_bytes=record.request_bytes,
        )

    def told(self, record: Record) -> "CountedRun":
        return self._replace(request_bytes=record.request_bytes)

    def may_hold(self, _: bytes) -> bool:
        """As Run: also where a request has begun behind the rest of that body, for then it is not known where that one ends."""
        return self.owed_bytes == UNKNOWN_BYTES or 0 < self.owed_bytes < self.request_bytes

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
        return max(0, self.owed_bytes - self.request_bytes)

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
