"""Questions to the pipeline's thread: each has an answer, or an end."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from otel_ebpf.export import snapshots
from otel_ebpf.export.snapshots import Desk, Snapshot
from otel_ebpf.telemetry.metrics import Meter, MeterOptions
from tests.unit.export.collectors import wait_until

METER = Meter()
FOREVER = 60.0


def take(meter: Meter) -> Snapshot:
    return Snapshot(7, 0, {}, [])


class Asking:
    """A thread that asks once."""

    def __init__(self, desk: Desk, seconds: float = FOREVER) -> None:
        self.answers: list[Any] = []
        self.thread = threading.Thread(target=lambda: self.answers.append(desk.ask(METER, seconds)))
        self.thread.start()

    def answer(self) -> Any:
        self.thread.join(FOREVER)
        assert not self.thread.is_alive()
        return self.answers[0]


def test_all_who_wait_are_answered_in_one_pass() -> None:
    desk = Desk()
    asking = [Asking(desk) for _ in range(5)]
    wait_until(lambda: len(desk._waiting) == 5, "all have asked")
    desk.serve(take)

    assert [take(METER)] * 5 == [one.answer() for one in asking]


@pytest.mark.parametrize(("is_delta", "times"), [(False, 1), (True, 3)])
def test_totals_are_copied_once_for_all_who_wait_and_differences_given_to_one(is_delta: bool, times: int) -> None:
    desk, meter, taken = Desk(), Meter(MeterOptions(is_delta=is_delta)), []
    threads = [threading.Thread(target=desk.ask, args=(meter, FOREVER)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(desk._waiting) == 3, "all have asked")
    desk.serve(lambda meter: taken.append(meter) or take(meter))  # type: ignore[func-returns-value]
    for thread in threads:
        thread.join(FOREVER)

    assert times == len(taken)


def test_a_question_that_nobody_waits_for_takes_nothing() -> None:
    """A snapshot of differences empties the meter: one that is thrown away would lose what was measured."""
    desk = Desk()
    assert None is Asking(desk, seconds=0.01).answer()
    taken: list[Meter] = []
    desk.serve(lambda meter: taken.append(meter) or take(meter))  # type: ignore[func-returns-value]

    assert [] == taken


def test_at_the_end_who_waits_is_answered_and_who_comes_later_is_told_at_once() -> None:
    """Else the thread that sends would spend the time to stop in waiting for a pipeline that is no more."""
    desk = Desk()
    asking = Asking(desk)
    wait_until(lambda: bool(desk._waiting), "it has asked")
    desk.close(take)

    assert take(METER) == asking.answer()
    assert None is desk.ask(METER, FOREVER)


def test_an_answer_that_comes_just_too_late_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was being taken while the patience ended."""
    desk = Desk()
    is_taking, has_lost_patience = threading.Event(), threading.Event()

    class Awaited(Future[Snapshot]):
        """Its patience ends exactly then."""

        def result(self, timeout: float | None = None) -> Snapshot:
            if timeout is not None:
                assert is_taking.wait(FOREVER)
                raise TimeoutError
            has_lost_patience.set()
            return super().result()

    def slow(meter: Meter) -> Snapshot:
        is_taking.set()
        assert has_lost_patience.wait(FOREVER)
        return take(meter)

    monkeypatch.setattr(snapshots, "Future", Awaited)
    asking = Asking(desk)
    wait_until(lambda: bool(desk._waiting), "it has asked")
    desk.serve(slow)

    assert take(METER) == asking.answer()
