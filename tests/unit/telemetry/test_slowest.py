"""The running quantile by which a route's slowest are told."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.telemetry.slowest import MAX_KEYS, Slowest

MS = 1_000_000


def slow_of(slowest: Slowest, durations: list[float], key: object = "route") -> list[bool]:
    return [slowest.is_slow(key, round(duration)) for duration in durations]


@pytest.mark.parametrize("share", [0.1, 0.01])
@pytest.mark.parametrize("draw", ["expovariate", "lognormvariate", "uniform"])
def test_about_the_share_is_slow_and_those_are_the_longest(share: float, draw: str) -> None:
    """Of any shape of durations; the seed is fixed."""
    chance = random.Random(7)
    parameters = {"expovariate": (1,), "lognormvariate": (0, 1), "uniform": (0, 1)}[draw]
    durations = [50 * MS * getattr(chance, draw)(*parameters) for _ in range(20_000)]

    is_slow = slow_of(Slowest(share), durations)[2_000:]

    assert sum(is_slow) == pytest.approx(share * len(is_slow), rel=0.5)
    level = sorted(durations)[-round(share * len(durations))]
    told = list(zip(is_slow, durations[2_000:], strict=True))
    longest = [slow for slow, duration in told if duration > 1.5 * level]
    assert sum(longest) >= 0.9 * len(longest)
    assert not any(slow for slow, duration in told if duration < 0.5 * level)


@given(st.lists(st.integers(0, 10**12), max_size=400), st.sampled_from([0.01, 0.1, 0.5]))
def test_never_much_more_than_the_share_is_slow(durations: list[int], share: float) -> None:
    """Whatever the durations: a level climbs 5 % a time, so twelve powers of ten take six hundred; it has to fall before it can again."""
    count = sum(slow_of(Slowest(share), list(durations)))

    assert count <= share * 2 * len(durations) + 48 * 12


def test_the_first_of_its_kind_is_not_slow() -> None:
    """Nothing is known of it."""
    assert [False] == slow_of(Slowest(0.01), [10**12])


def test_one_that_is_far_slower_than_all_others_is_slow() -> None:
    slowest = Slowest(0.01)
    slow_of(slowest, [MS + number % 7 for number in range(500)])

    assert [True] == slow_of(slowest, [100 * MS])
    assert [False] == slow_of(slowest, [MS])


def test_a_service_that_becomes_slower_is_followed() -> None:
    slowest = Slowest(0.01)
    slow_of(slowest, [MS] * 1000)

    after = slow_of(slowest, [50 * MS] * 1000)

    assert after[0]
    assert sum(after[200:]) <= 2 * 0.01 * len(after), "equal ones are told apart by nothing: a share of them is"
    quick = slow_of(slowest, [MS] * 20_000)
    assert not any(quick[:4_000])
    assert [True] == slow_of(slowest, [50 * MS])


def test_each_route_has_its_own_level() -> None:
    slowest = Slowest(0.01)
    for _ in range(500):
        slow_of(slowest, [100 * MS], "slow")
        slow_of(slowest, [MS], "quick")

    assert [[False], [True]] == [slow_of(slowest, [50 * MS], key) for key in ("slow", "quick")]


def test_levels_are_bounded_and_those_in_use_stay() -> None:
    slowest = Slowest(0.01)
    for number in range(3 * MAX_KEYS):
        slow_of(slowest, [MS], "in use")
        slow_of(slowest, [MS], number)

    assert len(slowest._levels) <= MAX_KEYS
    assert [True] == slow_of(slowest, [100 * MS], "in use")
