"""The sampler `otel_ebpf_outcome`: errors, the slowest of each route, and a rate of the rest; whole traces of this host.

In:   exchanges that have ended, in that order; the time
Out:  each of them once, with the threshold by which it is kept, or None where it is not
Owns: the traces that were found interesting; what waits to hear of its trace; both bounded

- An error (`error.type`) and one of the slowest of its route are kept, with all that share their trace and end later, or
  have ended less than WAIT_NS before. For that, what belongs to a trace that began elsewhere waits so long. What descends
  from an exchange on this host waits for the end of that one.
- The rest is kept when its trace's randomness reaches the threshold of the rate. All who decide so agree on a trace.
- The sampled flag of the caller is not looked at: what is kept of a service is for the service's own sake.

The weights are exact. The first kind is kept whatever its randomness, so its threshold is 0 (each counts once); the rest has
the threshold of its rate, and so counts for those that were dropped. Who is interesting, who waits and who had to leave early
is told by what happened, never by randomness.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from otel_ebpf.exchanges.kin import Kin
from otel_ebpf.telemetry.attributes import error_type
from otel_ebpf.telemetry.places import SpanPlace
from otel_ebpf.telemetry.slowest import Slowest
from otel_ebpf.telemetry.trace_context import validate_tracestate
from otel_ebpf.telemetry.trace_state import randomness_of, threshold_of, with_threshold

T = TypeVar("T")

WAIT_NS = 5_000_000_000
MAX_WAIT_NS = 60_000_000_000  # of what descends from an exchange that is still open
MAX_WAITING = 10_000  # exchanges; those that leave early are decided by the rate
MAX_WAITING_BYTES = 16 << 20  # of what their senders chose the length of
MAX_TRACES = 20_000  # interesting ones
DEFAULT_RATE, DEFAULT_SLOWEST = 0.1, 0.01


def with_weight(place: SpanPlace, threshold: int) -> SpanPlace:
    """The tracestate says by which threshold its span is kept, in the place of what the caller's said of the caller's."""
    tracestate = validate_tracestate(place.tracestate) if place.tracestate else None
    return place._replace(tracestate=with_threshold(tracestate or b"", threshold))


class Decided(NamedTuple, Generic[T]):
    item: T
    threshold: int | None  # None: not kept


@dataclass(slots=True)
class _Waiting(Generic[T]):
    item: T
    trace_id: bytes
    since_ns: int
    size_bytes: int
    threshold: int | None  # when nothing interesting comes
    first: Kin | None  # the exchange on this host that it descends from
    until_ns: int


class OutcomeSampler(Generic[T]):
    def __init__(self, rate: float | None = None, slowest: float | None = None) -> None:
        """`slowest`: the share of each route that is kept for being slow. Raises ValueError for what is no share."""
        rate, slowest = DEFAULT_RATE if rate is None else rate, DEFAULT_SLOWEST if slowest is None else slowest
        if not (0 <= rate <= 1 and 0 <= slowest <= 1):
            raise ValueError(f"{rate} or {slowest} is no probability")
        self.left_early = 0  # for want of room: their traces may be torn
        self._threshold = threshold_of(rate)
        self._slowest = Slowest(slowest) if slowest else None
        self._interesting: dict[bytes, None] = {}  # trace ids, the oldest first
        self._waiting: OrderedDict[int, _Waiting[T]] = OrderedDict()  # by number, in the order of time
        self._waiting_bytes = 0
        self._numbers: dict[bytes, list[int]] = {}  # of those that wait, by trace
        self._next_number = 0

    @property
    def waiting(self) -> list[T]:
        return [waiting.item for waiting in self._waiting.values()]

    def offer(
        self, item: T, exchange: Exchange, place: SpanPlace, service: str, route: bytes | None, now_ns: int
    ) -> list[Decided[T]]:
        """What is decided by it, itself included unless it waits."""
        trace_id = place.trace_id
        if self._is_interesting(exchange, service, route):
            self._remember(trace_id)
            return [*self._release(trace_id, is_interesting=True), Decided(item, 0)]
        if trace_id in self._interesting:
            return [Decided(item, 0)]
        is_kept = randomness_of(trace_id, place.tracestate) >= self._threshold
        threshold = self._threshold if is_kept else None
        if not place.parent_span_id:  # the trace began here, and this is its last
            return [*self._release(trace_id, is_interesting=False), Decided(item, threshold)]
        size_bytes = exchange.kept_bytes
        self._numbers.setdefault(trace_id, []).append(self._next_number)
        first = None if exchange.kin is None else exchange.kin.first
        self._waiting[self._next_number] = _Waiting(
            item, trace_id, now_ns, size_bytes, threshold, first, now_ns + MAX_WAIT_NS
        )
        self._waiting_bytes += size_bytes
        self._next_number += 1
        decided = []
        while len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            decided.append(self._leave_oldest())
            self.left_early += 1
        return decided

    def expire(self, now_ns: int) -> list[Decided[T]]:
        """Those that have waited long enough."""
        decided = []
        while self._waiting:
            number, waiting = next(iter(self._waiting.items()))
            if now_ns - waiting.since_ns < WAIT_NS:
                break
            if waiting.first is None or waiting.first.is_over or now_ns >= waiting.until_ns:
                decided.append(self._leave_oldest())
            else:
                # What it descends from may still turn out to be slow, or to fail.
                waiting.since_ns = now_ns
                self._waiting.move_to_end(number)
        return decided

    def end(self) -> list[Decided[T]]:
        """All that wait still."""
        return [self._leave_oldest() for _ in range(len(self._waiting))]

    def _is_interesting(self, exchange: Exchange, service: str, route: bytes | None) -> bool:
        is_slow = False
        if self._slowest is not None and exchange.outcome is Outcome.COMPLETE:
            # A call has no route; whom it calls is the next best thing.
            kind = exchange.host if exchange.role is Role.CLIENT else route
            duration_ns = exchange.end_ns - exchange.request_start_ns
            is_slow = self._slowest.is_slow((service, exchange.role, exchange.method, kind), duration_ns)
        return is_slow or error_type(exchange.role, exchange.status, exchange.outcome) is not None

    def _remember(self, trace_id: bytes) -> None:
        self._interesting.pop(trace_id, None)
        if len(self._interesting) >= MAX_TRACES:
            self._interesting = dict.fromkeys(islice(self._interesting, MAX_TRACES // 2, None))
        self._interesting[trace_id] = None

    def _release(self, trace_id: bytes, *, is_interesting: bool) -> list[Decided[T]]:
        """All that wait of a trace."""
        numbers = self._numbers.pop(trace_id, None)
        if numbers is None:
            return []
        released = [self._waiting.pop(number) for number in numbers]
        self._waiting_bytes -= sum(waiting.size_bytes for waiting in released)
        return [Decided(waiting.item, 0 if is_interesting else waiting.threshold) for waiting in released]

    def _leave_oldest(self) -> Decided[T]:
        number, waiting = self._waiting.popitem(last=False)
        self._waiting_bytes -= waiting.size_bytes
        numbers = self._numbers[waiting.trace_id]
        numbers.remove(number)
        if not numbers:
            del self._numbers[waiting.trace_id]
        return Decided(waiting.item, waiting.threshold)
