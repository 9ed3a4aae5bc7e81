from otel_ebpf.records.kinds import RecordFlag
from otel_ebpf.records.layouts import PROGRESS, PROGRESS_UNSENT
from otel_ebpf.records.progress import PROGRESS_TABLE_BYTES, Progress, ProgressTable

FOLLOWED = int(RecordFlag.CHUNKS_FOLLOWED)


def read(response_last_ns: int) -> Progress | None:
    memory = bytearray(PROGRESS_TABLE_BYTES)
    PROGRESS.pack_into(memory, 5 * PROGRESS.size, 5, 3, 0, 0, 0, FOLLOWED, 100, response_last_ns, 20, 7, bytes(8), 9)
    return ProgressTable.over(memory).read(5, 3)


def test_what_has_been_sent_has_its_time():
    assert Progress(3, 0, False, 0, FOLLOWED, 100, 1234, 20, 7, bytes(8), 9) == read(1234)


def test_of_what_has_only_been_handed_over_the_time_is_marked():
    """In the word that holds the time: the kernel changes both at once."""
    unsent = FOLLOWED | int(RecordFlag.UNSENT)

    assert Progress(3, 0, False, 0, unsent, 100, 1234, 20, 7, bytes(8), 9) == read(1234 | PROGRESS_UNSENT)
