"""otel_ebpf_outcome: what is kept, when that is decided, and what it weighs."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from otel_ebpf.telemetry import outcome
from otel_ebpf.telemetry.outcome import WAIT_NS, OutcomeSampler, with_weight
from otel_ebpf.telemetry.places import Places
from otel_ebpf.telemetry.trace_context import IdSource
from otel_ebpf.telemetry.trace_state import NEVER, randomness_of, threshold_of
from tests.unit.telemetry.examples import PLACES, client_exchange, exchange

MS = 1_000_000
NUMBERS = count(1)


def traceparent(trace: int, flags: int = 1) -> bytes:
    return b"00-%032x-b7ad6b7169203331-%02x" % (trace, flags)


def of_trace(trace: int, kind: Any = exchange, **changes: Any) -> Exchange:
    found: Exchange = kind(traceparent=traceparent(trace), position=next(NUMBERS), **changes)
    return found


class Tried:
    """A sampler and what it has decided: (exchange, threshold)."""

    def __init__(self, rate: float = 0.0, slowest: float = 0.0) -> None:
        self.sampler: OutcomeSampler[Exchange] = OutcomeSampler(rate, slowest)
        self.now_ns = 0

    def end(
        self, new: Exchange, *, after_ns: int = MS, route: bytes | None = b"/r"
    ) -> list[tuple[Exchange, int | None]]:
        self.now_ns += after_ns
        return [tuple(one) for one in self.sampler.offer(new, new, PLACES.of(new), "shop", route, self.now_ns)]

    def wait(self, ns: int) -> list[tuple[Exchange, int | None]]:
        self.now_ns += ns
        return [tuple(one) for one in self.sampler.expire(self.now_ns)]


# --- Errors ---


@pytest.mark.parametrize(
    "error",
    [
        exchange(status=500),
        client_exchange(status=404),
        exchange(status=None, outcome=Outcome.SERVER_CLOSED),
        exchange(status=200, outcome=Outcome.RESET),
    ],
)
def test_errors_are_kept_at_once_and_count_once(error: Exchange) -> None:
    """What has error.type; a threshold of 0 means that nothing was dropped for it."""
    assert [(error, 0)] == Tried().end(error)


def test_what_is_no_error_is_dropped_at_a_rate_of_nothing() -> None:
    fine = exchange(status=404)
    assert [(fine, None)] == Tried().end(fine)


def test_all_of_a_trace_with_an_error_are_kept() -> None:
    """What ended before it has waited; what ends after it does not wait."""
    before, error, after, other = of_trace(1), of_trace(1, status=503), of_trace(1, client_exchange), of_trace(2)
    tried = Tried()

    assert [[], []] == [tried.end(before), tried.end(other)]
    assert [(before, 0), (error, 0)] == tried.end(error)
    assert [(after, 0)] == tried.end(after)
    assert [(other, None)] == tried.wait(WAIT_NS)


def test_without_an_error_a_trace_waits_so_long_and_no_longer() -> None:
    first, second = of_trace(1), of_trace(1)
    tried = Tried()
    tried.end(first)
    tried.end(second, after_ns=WAIT_NS // 2)

    assert [(first, None)] == tried.wait(WAIT_NS // 2)
    assert [(second, None)] == tried.wait(WAIT_NS // 2)
    assert [] == tried.sampler.waiting


def test_a_trace_that_began_here_is_decided_when_its_first_request_ends() -> None:
    """Its calls end before it, and wait for it."""
    root = exchange(position=next(NUMBERS))
    call = of_trace(int.from_bytes(PLACES.of(root).trace_id, "big"), client_exchange)
    tried = Tried()

    assert [] == tried.end(call)
    assert [(call, None), (root, None)] == tried.end(root)

    failed = exchange(position=next(NUMBERS), status=500)
    call = of_trace(int.from_bytes(PLACES.of(failed).trace_id, "big"), client_exchange)
    assert [] == tried.end(call)
    assert [(call, 0), (failed, 0)] == tried.end(failed)


def test_at_the_end_all_that_wait_are_decided() -> None:
    waiting = [of_trace(number) for number in range(1, 4)]
    tried = Tried(rate=1)
    for one in waiting:
        tried.end(one)

    assert waiting == tried.sampler.waiting
    assert [(one, 0) for one in waiting] == [tuple(one) for one in tried.sampler.end()]
    assert [] == tried.sampler.waiting


# --- The slowest ---


def test_the_slowest_of_each_route_are_kept_with_their_traces() -> None:
    tried = Tried(slowest=0.01)
    for number in range(500):
        for route in (b"/quick", b"/slow"):
            duration_ns = (MS if route == b"/quick" else 100 * MS) + number % 7 * 1000
            tried.end(exchange(end_ns=1_000 + duration_ns), route=route)
    slow, before = of_trace(9, end_ns=1_000 + 50 * MS), of_trace(9, client_exchange)

    assert [] == tried.end(before)
    assert [(before, 0), (slow, 0)] == tried.end(slow, route=b"/quick")
    assert [] == tried.end(of_trace(10, end_ns=1_000 + 50 * MS), route=b"/slow")


def test_calls_are_told_apart_by_whom_they_call_and_requests_are_not() -> None:
    """The Host of a request is its sender's choice: it must not push out what is known of routes."""
    tried = Tried(slowest=0.01)
    for number in range(100):
        tried.end(exchange(host=b"h%d" % number), route=None)
        tried.end(client_exchange(host=b"h%d" % number), route=None)

    assert tried.sampler._slowest is not None
    assert 101 == len(tried.sampler._slowest._levels)


def test_what_did_not_end_by_itself_has_no_duration_to_learn_from() -> None:
    tried = Tried(slowest=0.01)
    tried.end(exchange(outcome=Outcome.UNKNOWN, end_ns=10**15))

    assert tried.sampler._slowest is not None
    assert {} == tried.sampler._slowest._levels


# --- The rate ---


def test_the_rest_is_kept_by_the_randomness_of_its_trace() -> None:
    """The callers' sampled flag is of no account."""
    threshold = threshold_of(0.25)
    for flags in (0, 1):
        for randomness, expected in ((threshold - 1, None), (threshold, threshold), (NEVER - 1, threshold)):
            new = exchange(traceparent=traceparent(1 << 64 | randomness, flags))
            tried = Tried(rate=0.25)
            assert [] == tried.end(new)
            assert [(new, expected)] == tried.wait(WAIT_NS)


def test_an_explicit_randomness_goes_before_the_trace_id() -> None:
    new = exchange(traceparent=traceparent(1), tracestate=b"a=1,ot=rv:ffffffffffffff")
    tried = Tried(rate=0.01)
    tried.end(new)

    assert [(new, threshold_of(0.01))] == tried.wait(WAIT_NS)


def test_the_weight_is_in_the_tracestate_and_the_rest_of_it_stays() -> None:
    place = PLACES.of(exchange(traceparent=traceparent(1), tracestate=b"a=1, ot=th:c;rv:0000000000000f"))

    assert b"ot=th:8;rv:0000000000000f,a=1" == with_weight(place, 8 << 52).tracestate
    assert b"ot=th:0" == with_weight(place._replace(tracestate=b"=,"), 0).tracestate
    assert b"ot=th:0" == with_weight(PLACES.of(exchange()), 0).tracestate


EXCHANGES = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(Role), st.sampled_from([200, 404, 500]), st.integers(0, WAIT_NS)),
    max_size=60,
)


@given(EXCHANGES, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.2]))
def test_each_exchange_is_decided_once_and_no_trace_is_torn_in_time(
    given_: list[tuple[int, Role, int, int]], rate: float, slowest: float
) -> None:
    """Errors are always kept, what is kept weighs what its kind does, and nothing is left."""
    tried, all_of, ended_at = Tried(rate, slowest), [], {}
    decided: list[tuple[Exchange, int | None]] = []
    for trace, role, status, after_ns in given_:
        kind = exchange if role is Role.SERVER else client_exchange
        new = (
            of_trace(trace << 100 | trace << 53 | 1, kind, status=status)
            if trace
            else kind(position=next(NUMBERS), status=status)
        )
        all_of.append(new)
        decided += tried.wait(after_ns) + tried.end(new, after_ns=0)
        ended_at[new.position] = tried.now_ns
    decided += [tuple(one) for one in tried.sampler.end()]

    assert sorted(new.position for new in all_of) == sorted(new.position for new, _ in decided)
    assert (0, {}) == (tried.sampler._waiting_bytes, tried.sampler._numbers)
    weights = {new.position: threshold for new, threshold in decided}
    for new in all_of:
        place, threshold = PLACES.of(new), weights[new.position]
        is_by_rate = randomness_of(place.trace_id, None) >= threshold_of(rate)
        assert threshold in ((0, threshold_of(rate)) if is_by_rate else (0, None))
        if new.status == 500 or (new.status == 404 and new.role is Role.CLIENT):
            assert 0 == threshold
            for other in all_of:
                is_near = ended_at[other.position] > ended_at[new.position] - WAIT_NS
                if is_near and PLACES.of(other).trace_id == place.trace_id:
                    assert 0 == weights[other.position]


def test_the_sum_of_the_weights_is_the_number_of_requests() -> None:
    """An unbiased estimate: five standard deviations. Errors depend on nothing random."""
    places = Places(IdSource(b"another"))
    rate, total, estimate = 0.1, 20_000, 0.0
    sampler: OutcomeSampler[int] = OutcomeSampler(rate, 0.01)
    for number in range(total):
        new = exchange(position=number, status=500 if number % 10 == 0 else 200, end_ns=2_000 + number % 1_000)
        for decided in sampler.offer(number, new, places.of(new), "shop", b"/r", number):
            if decided.threshold is not None:
                estimate += NEVER / (NEVER - decided.threshold)

    assert abs(estimate - total) < 5 * (total * (1 - rate) / rate) ** 0.5


# --- Bounds ---


def test_what_waits_is_bounded_in_number_and_leaves_by_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "MAX_WAITING", 3)
    tried, waiting = Tried(rate=1), [of_trace(number) for number in range(1, 6)]

    assert [[], [], [], [(waiting[0], 0)], [(waiting[1], 0)]] == [tried.end(one) for one in waiting]
    assert waiting[2:] == tried.sampler.waiting
    assert 2 == tried.sampler.left_early
    tried.wait(WAIT_NS)
    assert 2 == tried.sampler.left_early


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Senders choose the length of targets and headers."""
    monkeypatch.setattr(outcome, "MAX_WAITING_BYTES", 1_000)
    tried = Tried()
    small, large = of_trace(1), of_trace(2, request_headers=b"h" * 900)

    assert [[], []] == [tried.end(small), tried.end(large)]
    last = of_trace(3, target=b"/" * 500)
    assert [(small, None), (large, None)] == tried.end(last)
    assert [last] == tried.sampler.waiting


def test_traces_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest are kept."""
    monkeypatch.setattr(outcome, "MAX_TRACES", 10)
    tried = Tried()
    for number in range(1, 101):
        tried.end(of_trace(number, status=500))

    assert len(tried.sampler._interesting) <= 10
    last, first = of_trace(100), of_trace(1)
    assert [[(last, 0)], []] == [tried.end(last), tried.end(first)]


@pytest.mark.parametrize(("rate", "slowest"), [(1.1, 0), (0, -0.1), (float("nan"), 0)])
def test_what_is_no_share_is_refused(rate: float, slowest: float) -> None:
    with pytest.raises(ValueError, match="no probability"):
        OutcomeSampler(rate, slowest)
