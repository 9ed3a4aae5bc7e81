"""Encoded spans that wait to be sent."""

import threading
import time

from otel_ebpf.export.queue import SpanQueue

R = b"resource"


def spans(*names: int) -> list[bytes]:
    return [b"%010d" % name for name in names]


def names(queue: SpanQueue, most: int = 100) -> list[int]:
    batch = queue.take(most, 1 << 20)
    return [int(span) for _, span in batch.spans] if batch else []


def test_oldest_spans_leave_a_full_queue():
    """Bounded in bytes; what is lost is counted."""
    queue = SpanQueue(limit_bytes=30)
    queue.put(R, spans(1, 2))
    queue.put(R, spans(3, 4, 5))

    assert (2, 3, 30, 5) == (queue.dropped, queue.waiting, queue.size_bytes, queue.accepted)
    assert [3, 4, 5] == names(queue)


def test_span_larger_than_the_queue_is_dropped_and_counted():
    queue = SpanQueue(limit_bytes=5)
    queue.put(R, spans(1))

    assert (1, 0, 0) == (queue.dropped, queue.waiting, queue.size_bytes)


def test_batch_that_came_back_is_the_oldest_again():
    queue = SpanQueue()
    queue.put(R, spans(1, 2, 3))
    batch = queue.take(2, 1 << 20)
    queue.put(R, spans(4))
    queue.put_back(batch)

    assert [1, 2, 3, 4] == names(queue)
    assert (0, 0) == (queue.size_bytes, queue.dropped)


def test_batch_that_came_back_to_a_full_queue_gives_way_to_newer_spans():
    queue = SpanQueue(limit_bytes=30)
    queue.put(R, spans(1, 2, 3))
    batch = queue.take(2, 1 << 20)
    queue.put(R, spans(4))
    queue.put_back(batch)

    assert [2, 3, 4] == names(queue)
    assert 1 == queue.dropped


def test_batch_is_bounded_in_spans_and_bytes():
    queue = SpanQueue()
    queue.put(R, spans(*range(10)))

    assert 3 == len(queue.take(3, 1 << 20).spans)
    assert 2 == len(queue.take(100, 25).spans)


def test_span_larger_than_a_batch_goes_alone():
    queue = SpanQueue()
    queue.put(R, spans(1, 2))

    assert [(R, b"%010d" % 1)] == queue.take(100, 1).spans


def test_empty_queue_has_no_batch():
    assert SpanQueue().take(1, 1) is None


def test_groups_are_by_resource_in_order():
    queue = SpanQueue()
    queue.put(b"a", spans(1))
    queue.put(b"b", spans(2))
    queue.put(b"a", spans(3))

    assert [(b"a", spans(1, 3)), (b"b", spans(2))] == queue.take(9, 999).groups()


def test_full_batch_is_ready_at_once_and_a_single_span_after_the_delay():
    """OTEL_BSP_MAX_EXPORT_BATCH_SIZE and OTEL_BSP_SCHEDULE_DELAY."""
    queue = SpanQueue(batch_spans=2)
    queue.put(R, spans(1, 2))
    began = time.monotonic()
    assert queue.wait_for_batch(delay_seconds=60)
    assert time.monotonic() - began < 30

    queue.take(1, 1 << 20)
    began = time.monotonic()
    assert queue.wait_for_batch(delay_seconds=0.05)
    assert time.monotonic() - began < 30


def test_waiting_consumer_is_woken_by_a_full_batch_and_by_the_end():
    queue = SpanQueue(batch_spans=2)
    answers = []
    consumer = threading.Thread(
        target=lambda: answers.extend((queue.wait_for_batch(60), take(), queue.wait_for_batch(60)))
    )

    def take() -> int:
        return len(names(queue))

    consumer.start()
    queue.put(R, spans(1))
    queue.put(R, spans(2))
    while queue.waiting:
        time.sleep(0.001)
    queue.close()
    consumer.join(10)

    assert [True, 2, False] == answers


def test_concurrent_puts_lose_nothing_uncounted():
    queue = SpanQueue(limit_bytes=10_000)
    taken = []
    stop = threading.Event()

    def consume() -> None:
        while not (stop.is_set() and not queue.waiting):
            taken.extend(names(queue, 7))

    consumer = threading.Thread(target=consume)
    producers = [threading.Thread(target=lambda: [queue.put(R, spans(1, 2)) for _ in range(2000)]) for _ in range(3)]
    for thread in (consumer, *producers):
        thread.start()
    for thread in producers:
        thread.join(30)
    stop.set()
    consumer.join(30)

    assert 12_000 == queue.accepted == len(taken) + queue.dropped
