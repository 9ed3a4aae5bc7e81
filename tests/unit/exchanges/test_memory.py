"""What peers send is kept within a bound, and looked at within a bound, however many they are."""

import tracemalloc

import pytest

from otel_ebpf.exchanges import assembler as assembler_module
from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.chunk_mask import ChunkMask
from otel_ebpf.exchanges.masking import Masks
from otel_ebpf.exchanges.memory import LOOK_EVERY_BYTES, MAX_KEPT_BYTES
from otel_ebpf.records.decode import decode_record
from otel_ebpf.records.kinds import Record
from otel_ebpf.records.layouts import RECORD
from otel_ebpf.records.progress import Progress
from tests.fuzz.kept import kept_bytes
from tests.unit.exchanges.kernel_model import MS, Connection
from tests.unit.exchanges.test_assembler import CHUNKED_HEAD, GET, OK
from tests.unit.work import lines_executed

SHORT = b"GET / HTTP/1.1\r\n\r\n"
LONG = b"GET /" + b"p" * 7000 + b" HTTP/1.1\r\n\r\n"


def fed(assembler: Assembler, records: list[Record], connections: int) -> Assembler:
    for connection in range(connections):
        for record in records:
            assembler.feed(record._replace(connection=connection, payload=bytes(bytearray(record.payload))))
    return assembler


def most_kept(records: list[Record]) -> int:
    """After so many connections that all of it would be three times the bound."""
    connections = 3 * MAX_KEPT_BYTES // sum(len(record.payload) for record in records)
    return kept_bytes(list(fed(Assembler(), records, connections)._runs.values()))


def test_heads_that_never_end_are_kept_within_a_bound():
    connection = Connection()
    for start in range(0, 56_000, 7000):
        connection.request((b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000)[start : start + 7000])

    assert most_kept(connection.records) <= 2 * (MAX_KEPT_BYTES + LOOK_EVERY_BYTES)


def test_requests_that_wait_for_their_answers_are_kept_within_a_bound():
    """A client that pipelines and reads nothing: of each request the head is kept."""
    connection = Connection()
    for _ in range(100):
        connection.request(LONG)

    assert most_kept(connection.records) <= 2 * (MAX_KEPT_BYTES + LOOK_EVERY_BYTES)


@pytest.mark.parametrize("is_in_flight", [False, True], ids=["pipelined", "in flight"])
def test_of_short_requests_what_is_made_of_them_counts(is_in_flight: bool):
    """18 bytes on the wire are many times that in memory; they may come one behind the other, or one position each."""
    connection, assembler = Connection(), Assembler()
    connection.request(SHORT).response(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    for _ in range(500):
        connection.request(SHORT if is_in_flight else b"")
        connection.response(b"a" if is_in_flight else b"")
    if not is_in_flight:
        connection.request(SHORT * 500)
    samples = [RECORD.pack(*record[:-1]) + record.payload for record in connection.records]

    tracemalloc.start()
    for sample in samples:
        assembler.feed(decode_record(sample, 0, len(sample)))
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    (run,) = assembler._runs.values()
    assert 501 == run.unreported_count
    assert used_bytes < 2 * run.kept_bytes


def test_connections_that_idle_after_a_long_request_are_kept_within_a_bound():
    assert most_kept(Connection().request(LONG).response(OK).records) <= 2 * (MAX_KEPT_BYTES + LOOK_EVERY_BYTES)


def test_what_a_redacted_recording_keeps_of_heads_is_bounded():
    connection, masks = Connection(), Masks()
    for start in range(0, 56_000, 7000):
        connection.request((b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000)[start : start + 7000])
    for number in range(3 * MAX_KEPT_BYTES // 56_000):
        for record in connection.records:
            masks.feed(record._replace(connection=number, payload=bytes(bytearray(record.payload))))

    assert kept_bytes(list(masks._runs.values())) <= 3 * (MAX_KEPT_BYTES + LOOK_EVERY_BYTES)


def test_a_line_between_chunks_that_never_ends_is_not_kept_by_a_redacted_recording():
    mask = ChunkMask()
    for _ in range(100):
        mask.mask(b"1" * 1000)

    assert kept_bytes(mask) < 10_000


def test_what_gives_way_is_counted_and_the_small_stay():
    assembler = Assembler()
    (small,) = Connection().request(GET).records
    assembler.feed(small._replace(connection=1 << 40))
    (large,) = Connection().request(LONG[:-2]).records
    count = 2 * MAX_KEPT_BYTES // len(large.payload)
    fed(assembler, [large], count)

    assert count + 1 == assembler.open_count + assembler.losses["evicted"]
    assert assembler.losses["evicted"] > 0
    assert {1 << 40} == {number for number, run in assembler._runs.items() if run.kept_bytes == len(GET)}


def test_twice_as_many_pipelined_requests_are_twice_the_work():
    def work(count: int) -> int:
        connection = Connection()
        for _ in range(count):
            connection.request(GET)
        responses = Connection().request(GET)
        for _ in range(count):
            responses.response(OK)
        records = [*connection.records, *(record for record in responses.records if record.kind != 1)]
        return lines_executed(lambda: fed(Assembler(), records, 1))

    assert work(400) < 2.2 * work(200)


def test_open_streams_are_looked_at_in_turns_of_a_bounded_length():
    """Each look costs; thousands of streams must not take the exporter's time at every pass, but each has its turn."""
    connections = assembler_module._MOST_LOOKS + 100
    streams = fed(Assembler(), Connection().request(GET).response(CHUNKED_HEAD).records, connections)
    looks: list[int] = []

    def read_progress(connection: int, position: int) -> Progress | None:
        looks.append(connection)
        return None

    streams.watch(read_progress, 2000 * MS)
    assert set(range(connections)) == set(looks)
    looks.clear()
    streams.watch(read_progress, 2020 * MS)

    assert assembler_module._MOST_LOOKS == len(looks)
