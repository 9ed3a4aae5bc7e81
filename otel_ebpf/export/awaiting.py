"""Exchanges that have ended while it is not known yet who has sent them, or what all of them began with.

In:   exchanges; the time
Out:  the same, once the client's record has come, or has been waited for long enough
Owns: those that wait; bounded

The kernel says of a server's exchange whether a target has sent it. The record of that client may come late: its thread is
held up in the call by which it sent. Then it does so for as long as the machine likes, and all that time it waits here.
"""

from otel_ebpf.exchanges.exchange import Exchange

MAX_WAIT_NS = 5_000_000_000  # also for a record that was lost
MAX_AWAITING = 2_000  # they are looked at in each pass
MAX_AWAITING_BYTES = 4 << 20  # of their heads


class Awaiting:
    def __init__(self) -> None:
        self._waiting: list[tuple[int, Exchange]] = []
        self._bytes = 0

    @property
    def exchanges(self) -> list[Exchange]:
        return [exchange for _, exchange in self._waiting]

    def takes(self, exchange: Exchange, now_ns: int) -> bool:
        """Does it wait here from now on?"""
        if not _is_awaited(exchange) or len(self._waiting) >= MAX_AWAITING or self._bytes >= MAX_AWAITING_BYTES:
            return False
        self._waiting.append((now_ns, exchange))
        self._bytes += exchange.kept_bytes
        return True

    def release(self, now_ns: int) -> list[Exchange]:
        if not self._waiting:
            return []
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        released = []
        for since_ns, exchange in waiting:
            if now_ns - since_ns >= MAX_WAIT_NS or not self.takes(exchange, since_ns):
                released.append(exchange)
        return released

    def end(self) -> list[Exchange]:
        """All that wait still."""
        found, self._waiting, self._bytes = self.exchanges, [], 0
        return found


def _is_awaited(exchange: Exchange) -> bool:
    """A traceparent of its own says where it belongs, and a place that has been asked for stays."""
    if exchange.kin is None or exchange.traceparent is not None:
        return False
    first = exchange.kin.first
    return first.is_awaited and first.place is None
