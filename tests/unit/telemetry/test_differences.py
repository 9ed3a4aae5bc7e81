"""Differences add up to the total, whatever is taken and whatever is not."""

from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.telemetry.differences import Differences

START = 100


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=30))
def test_what_was_taken_adds_up(exports: list[tuple[int, bool]]) -> None:
    """Intervals touch: each begins where the last one that was taken ended."""
    differences, total, taken, since = Differences(), 0, 0, START
    for number, (growth, is_taken) in enumerate(exports):
        total += growth
        differences.begin_export()
        difference, start = differences.of("key", total, START, 200 + number)
        assert (total - taken, since) == (difference, start)
        if is_taken:
            differences.were_taken()
            taken, since = total, 200 + number
        else:
            differences.were_not_taken()


def test_keys_have_totals_of_their_own() -> None:
    differences = Differences()
    differences.begin_export()
    assert [(3, START), (5, START)] == [differences.of(key, total, START, 200) for key, total in (("a", 3), ("b", 5))]
    differences.were_taken()

    assert [(1, 200), (0, 200)] == [differences.of(key, total, START, 300) for key, total in (("a", 4), ("b", 5))]


def test_a_total_that_has_become_less_has_begun_anew() -> None:
    differences = Differences()
    differences.of("key", 10, START, 200)
    differences.were_taken()

    assert (3, 200) == differences.of("key", 3, START, 300)


def test_what_is_told_no_more_is_forgotten() -> None:
    """Services come and go for as long as the agent runs."""
    differences = Differences()
    for number in range(1000):
        differences.begin_export()
        differences.of(number, 1, START, 200)
        differences.were_taken()

    assert len(differences._told) <= 4
