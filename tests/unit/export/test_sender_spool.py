"""The sender with a spool: what collectors and disks may do, and every span arrives or is counted."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from otel_ebpf.export import keeper as keeper_module
from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.keeper import Keeper
from otel_ebpf.export.queue import SpanQueue
from otel_ebpf.export.sender import SendCounts
from otel_ebpf.export.spool import DATABASE, Spool, SpoolError
from otel_ebpf.otlp_settings import OtlpSettings
from tests.unit.export.collectors import (
    HANG_UP,
    HANG_UP_EARLY,
    OK,
    STALL,
    Answer,
    GrpcCollector,
    HttpCollector,
    answer,
    failing,
    free_port,
    grpc_collector,
    http_collector,
    retry_info,
    settings,
    stall,
    take,
    wait_until,
)
from tests.unit.export.sending import RESOURCE, Sending, encoded, sending

NAMES = [f"n{number}" for number in range(300)]
PROTOCOLS = pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)
    monkeypatch.setattr(sender_module, "LAST_BACK_OFF_SECONDS", 0.2)
    monkeypatch.setattr(sender_module, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(sender_module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(keeper_module, "RETRY_SECONDS", 0.05)


def collector(protocol: str, port: int | None = None) -> AbstractContextManager[HttpCollector | GrpcCollector]:
    return grpc_collector(port=port) if protocol == "grpc" else http_collector(port=port)


def at(protocol: str, port: int, **changes: Any) -> OtlpSettings:
    path = "" if protocol == "grpc" else "/v1/traces"
    return settings(f"http://127.0.0.1:{port}{path}", protocol=protocol, **changes)


def wait_for(own: Sending, **wanted: int) -> None:
    def is_so() -> bool:
        counts = own.sender.counts()._asdict()
        return all(counts[name] == count for name, count in wanted.items())

    wait_until(is_so, f"{wanted}")


@PROTOCOLS
def test_outage_loses_nothing_and_keeps_the_order(protocol: str, tmp_path: Path) -> None:
    """The queue holds half of it; what comes while the spool is drained stands behind what lies there."""
    port = free_port()
    limit = 150 * len(encoded("n0"))
    with sending(at(protocol, port), spool_folder=tmp_path, queue_bytes=limit, batch_spans=10) as own:
        for start in range(0, 200, 20):
            own.put(*NAMES[start : start + 20])
            wait_for(own, on_disk=start + 20)
        assert 0 == own.sender.queue.waiting
        with collector(protocol, port) as back:
            for start in range(200, 300, 20):
                own.put(*NAMES[start : start + 20])
            wait_for(own, exported=300)

            assert SendCounts(exported=300, rejected=0, dropped=0, failed=0) == own.stop()
            assert NAMES == back.names()
    assert ["takes no spans", "again after"] == [
        said for said, line in zip(SAID, own.messages, strict=True) if said in line
    ]


SAID = ("takes no spans", "again after")


@PROTOCOLS
def test_next_agent_sends_what_the_last_one_could_not(protocol: str, tmp_path: Path) -> None:
    """Stopped in an outage: what waits in memory is written down within the deadline."""
    port = free_port()
    with sending(at(protocol, port), spool_folder=tmp_path) as own:
        own.put("a", "b")
        wait_for(own, on_disk=2)
        own.put("c")
        assert SendCounts(exported=0, rejected=0, dropped=0, failed=0, on_disk=3) == own.stop(2)
    with collector(protocol, port) as back, sending(at(protocol, port), spool_folder=tmp_path) as own:
        own.put("d")
        wait_for(own, exported=4)

        assert SendCounts(exported=4, rejected=0, dropped=0, failed=0, found_on_disk=3) == own.stop()
        assert ["a", "b", "c", "d"] == back.names()


def test_with_a_healthy_collector_nothing_is_written(tmp_path: Path) -> None:
    with http_collector() as taking, sending(settings(taking.endpoint), spool_folder=tmp_path) as own:
        before = written(tmp_path)
        for number in range(20):
            own.put(f"n{number}")
            wait_for(own, exported=number + 1)

        assert before == written(tmp_path)


def written(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir())


def test_full_spool_drops_the_oldest_exactly_counted(tmp_path: Path) -> None:
    with sending(at("http/protobuf", free_port()), spool_folder=tmp_path, spool_bytes=100_000) as own:
        for start in range(0, 300, 10):
            own.put(*NAMES[start : start + 10])
            wait_for(own, waiting=0)
        counts = own.stop()
    with http_collector() as back, sending(settings(back.endpoint), spool_folder=tmp_path) as own:
        wait_for(own, exported=counts.on_disk)

        assert 300 == counts.dropped + counts.on_disk
        assert 0 < counts.dropped < 300
        # The batch that was being tried is not dropped; the others are the newest.
        assert NAMES[-(counts.on_disk - 10) :] == back.names()[10:]


@contextmanager
def over_http(*answers: Answer) -> Iterator[tuple[HttpCollector, OtlpSettings]]:
    with http_collector(*answers) as found:
        yield found, settings(found.endpoint, timeout_ms=200)


@contextmanager
def over_grpc(*behaviours: Any) -> Iterator[tuple[GrpcCollector, OtlpSettings]]:
    with grpc_collector(*behaviours) as found:
        yield found, settings(found.endpoint, protocol="grpc", timeout_ms=200)


exhausted = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=retry_info(0.1))
unavailable = failing(grpc.StatusCode.UNAVAILABLE)
FAULTS = [
    pytest.param(lambda: over_http(STALL, STALL, OK), id="http stalls"),
    pytest.param(lambda: over_http(HANG_UP, HANG_UP, HANG_UP, OK), id="http closes before it answers"),
    pytest.param(lambda: over_http(HANG_UP_EARLY, HANG_UP_EARLY, OK), id="http closes in mid-request"),
    pytest.param(lambda: over_http(answer("503 x"), answer("503 x"), OK), id="http refuses for now"),
    pytest.param(lambda: over_http(answer("429 x", Retry_After=1), OK), id="http says when to come back"),
    pytest.param(lambda: over_http(answer("302 x", Location="http://127.0.0.1:1/"), OK), id="http redirects"),
    pytest.param(lambda: over_grpc(stall, stall, take), id="grpc stalls"),
    pytest.param(lambda: over_grpc(unavailable, unavailable, take), id="grpc refuses for now"),
    pytest.param(lambda: over_grpc(exhausted, take), id="grpc says when to come back"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_collector_does_all_arrives_in_order(fault: Callable[[], Any], tmp_path: Path) -> None:
    """What was sent before the fault was seen may arrive twice."""
    with fault() as (sick, its_settings), sending(its_settings, spool_folder=tmp_path, batch_spans=10) as own:
        for start in range(0, 100, 5):
            own.put(*NAMES[start : start + 5])
        wait_for(own, exported=100)

        assert NAMES[:100] == list(dict.fromkeys(sick.names()))
        assert SendCounts(exported=100, rejected=0, dropped=0, failed=0) == own.stop()


LONG = [
    pytest.param(lambda: over_http(answer("429 x", Retry_After=3600)), id="http"),
    pytest.param(lambda: over_grpc(failing(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=retry_info(3600))), id="grpc"),
]


@pytest.mark.parametrize("long_pause", LONG)
def test_collector_that_asks_for_a_long_pause_gets_it(long_pause: Callable[[], Any], tmp_path: Path) -> None:
    """One request; meanwhile spans go to the disk, and the agent can be stopped."""
    with long_pause() as (sick, its_settings), sending(its_settings, spool_folder=tmp_path) as own:
        own.put("a")
        wait_for(own, on_disk=1)
        own.put("b")
        wait_for(own, on_disk=2)
        began = time.monotonic()

        assert SendCounts(exported=0, rejected=0, dropped=0, failed=0, on_disk=2) == own.stop(2)
        assert time.monotonic() - began < 60  # and not the hour
        assert ["a"] == sick.names()


STALLS = [pytest.param(lambda: over_http(STALL), id="http"), pytest.param(lambda: over_grpc(stall), id="grpc")]


@pytest.mark.parametrize("stalling", STALLS)
def test_what_is_on_its_way_when_the_agent_stops_is_written_down(stalling: Callable[[], Any], tmp_path: Path) -> None:
    with stalling() as (sick, its_settings):
        patient = replace(its_settings, timeout_ms=60_000)
        with sending(patient, spool_folder=tmp_path) as own:
            own.put("a")
            wait_until(lambda: len(sick.received) == 1, "a request in flight")
            own.put("b")

            assert SendCounts(exported=0, rejected=0, dropped=0, failed=0, on_disk=2) == own.stop(1)
    with http_collector() as back, sending(settings(back.endpoint), spool_folder=tmp_path) as own:
        wait_for(own, exported=2)
        assert ["a", "b"] == back.names()


def test_put_never_waits_for_the_disk(tmp_path: Path) -> None:
    """The ring must be drained whatever the disk does; it would wait here for ever."""
    with sending(at("http/protobuf", free_port()), spool_folder=tmp_path, batch_spans=1) as own:
        assert own.sender._keeper is not None
        with own.sender._keeper.spool._lock:  # as if a thread waited for the disk
            for name in NAMES:
                own.put(name)
            assert 300 == own.sender.counts().waiting
        wait_for(own, on_disk=300)


def test_after_an_outage_the_collector_has_a_pause_as_long_as_each_request(tmp_path: Path) -> None:
    """So many agents come back at once: none is to send as fast as it can."""
    arrivals: list[float] = []

    def slow(_: object) -> bytes:
        arrivals.append(time.monotonic())
        time.sleep(0.05)
        return OK

    with sending(at("http/protobuf", port := free_port()), spool_folder=tmp_path, batch_spans=1) as own:
        own.put(*"abcdef")
        wait_for(own, on_disk=6)
        with http_collector(slow, port=port):
            wait_for(own, exported=6)

    assert min(after - before for before, after in pairwise(arrivals)) >= 0.05 + 0.8 * 0.05


def test_batch_on_disk_that_is_taken_in_part_is_counted_once(tmp_path: Path) -> None:
    """413, the first half taken, then a failure: only the second half is sent again."""
    port = free_port()
    with sending(at("http/protobuf", port), spool_folder=tmp_path) as own:
        own.put("a", "b", "c", "d")
        wait_for(own, on_disk=4)
        with http_collector(answer("413 x"), OK, answer("503 x"), OK, port=port) as back:
            wait_for(own, exported=4)

            assert [list("abcd"), list("ab"), list("cd"), list("cd")] == [got.names() for got in back.received]
            assert SendCounts(exported=4, rejected=0, dropped=0, failed=0) == own.stop()


def test_partial_success_of_a_batch_on_disk_is_counted(tmp_path: Path) -> None:
    from tests.unit.export.collectors import partial

    port = free_port()
    with sending(at("http/protobuf", port), spool_folder=tmp_path) as own:
        own.put("a", "b", "c")
        wait_for(own, on_disk=3)
        with http_collector(answer("200 OK", partial(1, "old").SerializeToString()), port=port):
            wait_for(own, exported=2)

            assert SendCounts(exported=2, rejected=1, dropped=0, failed=0) == own.stop()


def test_disk_that_fails_is_told_once_and_spans_stay_in_memory(tmp_path: Path) -> None:
    """A folder that is not there, as when its disk is not mounted; then it comes back."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with sending(at("http/protobuf", port := free_port()), is_started=False, spool_folder=folder) as own:
        folder.rename(tmp_path / "gone")
        (tmp_path / "gone").rename(tmp_path / "elsewhere")
        own.sender._keeper.spool.open = lambda: None  # type: ignore[union-attr,method-assign]  # the start was well
        own.sender.start()
        own.put("a", "b")
        wait_until(lambda: any("cannot keep spans" in line for line in own.messages), "the complaint")
        assert (2, 0) == (own.sender.counts().waiting, own.sender.counts().on_disk)

        (tmp_path / "elsewhere").rename(folder)
        wait_for(own, on_disk=2)
        with http_collector(port=port) as back:
            wait_for(own, exported=2)
            assert ["a", "b"] == back.names()
    about_disk = [line for line in own.messages if str(folder) in line and "collector" not in line]
    assert 2 == len(about_disk)
    assert "kept in" in about_disk[1]


def test_disk_that_has_room_for_a_part_of_what_waits_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a full one is drained: it takes a batch now and then. It is well when nothing waits any more."""
    queue, messages = SpanQueue(batch_spans=1), list[str]()
    spool = Spool(tmp_path, 1 << 20, messages.append)
    spool.open()
    keeper = Keeper(queue, spool, b"", 0.0, messages.append)
    room, add = [0], spool.add

    def add_while_there_is_room(number: int, request: bytes, span_count: int) -> None:
        if not room[0]:
            raise SpoolError("the disk is full")
        room[0] -= 1
        add(number, request, span_count)

    monkeypatch.setattr(spool, "add", add_while_there_is_room)
    queue.put(RESOURCE, [encoded(name) for name in NAMES[:5]])
    for batches in (0, 1, 0, 2):
        room[0] = batches
        assert not keeper._keep_all()
    assert (3, 2) == (spool.spans, queue.waiting)
    assert ["cannot keep"] == [line[:11] for line in messages]

    room[0] = 2
    assert keeper._keep_all()
    spool.close()
    assert [f"spans are kept in {tmp_path} again; 0 were dropped meanwhile."] == messages[1:]


def test_damaged_spool_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"x" * 100_000)
    with http_collector() as taking, sending(settings(taking.endpoint), spool_folder=tmp_path) as own:
        own.put("a")

        assert SendCounts(1, 0, 0, 0) == own.stop()
        assert 1 == len([line for line in own.messages if "damaged" in line])


def test_sum_of_the_counts_is_exact_at_any_moment(tmp_path: Path) -> None:
    """While spans go to the disk and leave it, none is counted twice or not at all."""
    answers: list[Answer] = [answer("503 x"), OK] * 30 + [OK]
    with http_collector(*answers) as moody:
        own_settings = settings(moody.endpoint)
        with sending(own_settings, spool_folder=tmp_path, batch_spans=5) as own:
            for name in NAMES:
                own.put(name)
                counts = own.sender.counts()
                assert counts.waiting >= 0
            wait_for(own, exported=300)
            assert NAMES == list(dict.fromkeys(moody.names()))
