"""Accounts of services: they add up, each and all together."""

from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.ledger import ENDED, Ledger, kernel_counts
from otel_ebpf.records.kinds import Counter

PIDS = st.integers(1, 4)


def row(service_pid: int, processes: int = 1, **counts: int) -> tuple[int, ...]:
    return (service_pid, processes, *(counts.get(counter.name.lower(), 0) for counter in Counter))


def test_what_the_kernel_and_what_user_space_lost_for_one_reason_is_one_loss() -> None:
    """Requests pipelined behind a lost one are counted here, the lost one there; one that was reported after all is none."""
    ledger = Ledger()
    ledger.read(row(7, began=10, lost_ring_full=4, lost_connections_full=1))
    account = ledger.of(7)
    account.tally["lost, ring full"] += 2
    account.pipelined += 2
    account.recovered += 1
    account.spans += 6

    assert {"lost, ring full": 5, "lost, too many connections": 1} == account.losses
    assert 12 == account.began == account.spans + sum(account.losses.values())


def test_no_reading_shows_more_spans_than_requests() -> None:
    """The kernel's counts are up to a second old, the spans and what was recovered are not."""
    ledger = Ledger()
    account = ledger.of(7)
    account.spans, account.recovered = 3, 1
    account.tally["evicted"] = 1
    assert {"evicted": 1} == account.losses
    assert 4 == account.began_so_far(0)

    ledger.read(row(7, began=10, lost_ring_full=2))
    assert {"evicted": 1, "lost, ring full": 1} == account.losses
    assert (10, 12) == (account.began_so_far(0), account.began_so_far(2))


def test_what_cannot_be_read_is_named_with_its_count() -> None:
    ledger = Ledger()
    ledger.read(row(7, tls=3, io_uring=2))

    assert [3, 2] == list(ledger.of(7).not_visible.values())
    assert ["TLS", "io_uring"] == [
        word for text in ledger.of(7).not_visible for word in ("TLS", "HTTP/2", "io_uring", "32-bit") if word in text
    ]


def test_a_number_that_comes_back_is_another_service() -> None:
    ledger = Ledger()
    ledger.read(row(7, began=10))
    ledger.of(7).spans += 10
    ledger.close(7)
    ledger.read(row(7, began=1))

    assert (1, 0) == (ledger.of(7).began, ledger.of(7).spans)
    assert (10, 10, 0) == (ledger.of(ENDED).began, ledger.of(ENDED).spans, ledger.of(ENDED).processes)


def test_a_reading_replaces_the_one_before() -> None:
    """The kernel's counts are since the start, not since the last reading."""
    ledger = Ledger()
    ledger.read(row(7, began=10))
    ledger.read(row(7, processes=3, began=12))

    assert (12, 3) == (ledger.of(7).began, ledger.of(7).processes)


@given(st.lists(st.tuples(st.sampled_from(["span", "lose", "close"]), PIDS), max_size=40))
def test_the_sum_of_all_accounts_forgets_nothing(steps: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    for step, pid in steps:
        if step == "span":
            ledger.of(pid).spans += 1
        elif step == "lose":
            ledger.of(pid).tally["evicted"] += 1
        else:
            ledger.close(pid)

    total = ledger.total()
    assert sum(step == "span" for step, _ in steps) == total.spans
    assert sum(step == "lose" for step, _ in steps) == total.tally["evicted"]


def test_accounts_are_bounded() -> None:
    ledger = Ledger()
    for pid in range(1, 100_000):
        ledger.of(pid).spans += 1

    assert len(ledger.accounts) < 20_000
    assert 99_999 == ledger.total().spans


@given(st.lists(st.integers(0, 9), max_size=30))
def test_counts_of_another_version_are_cut_or_filled_up(values: list[int]) -> None:
    assert [*values, *[0] * len(Counter)][: len(Counter)] == list(kernel_counts(values))
