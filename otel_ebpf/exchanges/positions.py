"""The positions of one run: the kernel counts anew at each, while the two streams go on.

In:   the record that begins each position
Out:  its counts as places in the streams; which record a request belongs to
Owns: where each position began, as long as one of its requests is in the list of the run

Nearly always there is one. A client that sends its next request while responses are still to come adds another. Where a head
is cut by that, its pieces are in two of them: the request belongs to the one in which its head ends.
"""

from bisect import bisect_right
from typing import TypeVar

from otel_ebpf.records.kinds import Record
from otel_ebpf.records.progress import Progress

Told = TypeVar("Told", Record, Progress, Record | Progress)

_RECORD_BYTES = 800  # one without its payload


class Positions:
    __slots__ = ("_begins", "_records", "_request_base", "_response_base", "count", "dropped", "joined", "newest")

    def __init__(self, first: Record) -> None:
        self.newest = first = first._replace(payload=b"")  # what is needed of it the readers keep
        self.count = 1
        self.dropped = 0  # requests that are no longer in the list of the run
        self.joined = 0  # held nothing but a piece of a head, which goes on in the position behind
        self._begins = [0]  # the number of each position's first request, the dropped ones counted
        self._records = [first]
        self._request_base = 0
        self._response_base = 0

    @property
    def first_request(self) -> int:
        """The index that the newest position's first request has, or will have."""
        return self._begins[-1] - self.dropped

    @property
    def kept_bytes(self) -> int:
        return _RECORD_BYTES * (len(self._records) - 1)

    def begin(
        self, record: Record, dropped: int, request_count: int, request_offset: int, response_offset: int
    ) -> None:
        """Another position. The first `dropped` requests leave the list, `request_count` stay in it."""
        self.newest = record = record._replace(payload=b"")
        self.count += 1
        self.dropped += dropped
        over = bisect_right(self._begins, self.dropped) - 1
        del self._begins[:over], self._records[:over]
        if self._begins[-1] == self.dropped + request_count:
            self.joined += 1
            del self._begins[-1], self._records[-1]
        self._begins.append(self.dropped + request_count)
        self._records.append(record._replace(position=record.position - self.joined))
        self._request_base, self._response_base = request_offset, response_offset

    def origin(self, index: int) -> tuple[Record, bool]:
        """Of the request with this index: the record that began its position; is it the position's first?"""
        number = index + self.dropped
        place = bisect_right(self._begins, number) - 1
        return self._records[place], self._begins[place] == number

    def in_stream(self, told: Told) -> Told:
        """Its counts since the run began."""
        if self.count == 1:
            return told
        return told._replace(
            request_bytes=told.request_bytes + self._request_base,
            response_bytes=told.response_bytes + self._response_base,
        )
