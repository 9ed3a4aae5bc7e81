"""Turns the records of all connections into exchanges.

In:   records in the order of the ring; readings of the progress table; the time
Out:  exchanges, each once
Owns: the open run of each connection; what could not become an exchange is counted in the ledger

Pure: the time and the readings are passed in.
"""

from collections import Counter
from collections.abc import Callable

from otel_ebpf.exchanges.counted_run import UNKNOWN_BYTES, CountedRun
from otel_ebpf.exchanges.exchange import Exchange, OpenRequest
from otel_ebpf.exchanges.http1 import NotHttpError
from otel_ebpf.exchanges.kinship import Kinship, Parents
from otel_ebpf.exchanges.ledger import RING_FULL, Ledger
from otel_ebpf.exchanges.memory import LOOK_EVERY_BYTES, MAX_KEPT_BYTES, runs_to_drop
from otel_ebpf.exchanges.plain_run import Head, PlainRun, read_ahead
from otel_ebpf.exchanges.readings import Readings
from otel_ebpf.exchanges.run import Run
from otel_ebpf.records.kinds import Counter as KernelCounter
from otel_ebpf.records.kinds import EndReason, Kind, Record
from otel_ebpf.records.progress import Progress

_ALL_RUNS_EVERY_NS = 1_000_000_000
_LOOKS_AFTER_LOSS = 3
_MOST_LOOKS = 512  # at responses that have not ended, the latest first; all of them once a second
_NEXT = (EndReason.NEXT_REQUEST, EndReason.NEXT_RESPONSE)  # the connection goes on
# Looking up a member of an enumeration takes longer than what is done with it.
_REQUEST, _RESPONSE, _END = int(Kind.REQUEST), int(Kind.RESPONSE), int(Kind.END)

OpenRun = PlainRun | Run
AnyRun = OpenRun | CountedRun
ReadProgress = Callable[[int, int], Progress | None]


class Assembler:
    def __init__(
        self, max_connections: int = 65536, ledger: Ledger | None = None, parents: Parents = Parents.NORMAL
    ) -> None:
        self.ledger = ledger or Ledger()
        self.stray_records = 0  # of exchanges whose beginning is not known
        self._max_connections = max_connections
        self._runs: dict[int, AnyRun] = {}
        self.kinship = None if parents is Parents.OFF else Kinship(self._runs, parents)
        self._waiting: dict[int, OpenRun] = {}  # a response has begun, and its end is still to come
        self._readings: dict[int, Readings] = {}  # by connection: where the table told more than the ring
        self._all_runs_at_ns = 0
        self._captured_bytes = 0  # since memory was looked at
        self._overtaken: dict[int, tuple[int, int, int]] = {}  # by connection: what was read at the last look
        self._lost = 0
        self._quiet_looks = 0

    @property
    def losses(self) -> Counter[str]:
        """Requests of all services by why they gave no exchange."""
        return self.ledger.total().tally

    @property
    def pipelined(self) -> int:
        return self.ledger.total().pipelined

    @property
    def recovered(self) -> int:
        return self.ledger.total().recovered

    @property
    def open_count(self) -> int:
        return sum(run.unreported_count for run in self._runs.values())

    def open_by_service(self) -> dict[int, tuple[int, int]]:
        """Requests that have given no exchange yet; and those pipelined so far on connections still followed."""
        found: dict[int, tuple[int, int]] = {}
        for run in self._runs.values():
            unreported, pipelined = run.unreported_count, run.pipelined_count
            if unreported or pipelined:
                before = found.get(run.service_pid, (0, 0))
                found[run.service_pid] = (before[0] + unreported, before[1] + pipelined)
        return found

    def open_requests(self) -> list[OpenRequest]:
        """Each request that has not ended and whose head is known."""
        return [request for run in self._runs.values() for request in run.open_requests]

    def feed_all(self, records: list[Record]) -> list[Exchange]:
        """The exchanges that these end or complete."""
        if self.kinship is not None:
            self.kinship.age()
        feed = self.feed
        heads = [read_ahead(record) for record in records]
        return [exchange for record, head in zip(records, heads, strict=True) for exchange in feed(record, head)]

    def feed(self, record: Record, head: Head = None) -> list[Exchange]:
        """One record, its head perhaps read already; returns the exchanges that it ends or completes."""
        self._captured_bytes += record.captured_bytes
        if self._captured_bytes > LOOK_EVERY_BYTES:
            self._bound_memory()
        kind = record.kind
        if kind == _REQUEST:
            return self._begin(record, head)
        run = self._runs.get(record.connection)
        if run is None or run.position != record.position:
            if kind != _END:
                self.stray_records += 1
            return []
        if isinstance(run, CountedRun):
            self._runs[record.connection] = run = run.told(record)
            if kind != _END:
                self.stray_records += 1
            elif record.reason not in _NEXT:
                self._forget(run)
            return []
        if kind == _END:
            return self._end(run, EndReason(record.reason), record)
        return self._feed_run(run, record, head)

    def watch(self, read_progress: ReadProgress, now_ns: int) -> list[Exchange]:
        """Looks at what has been counted since for the responses that have not ended."""
        runs = list(self._waiting.values())[-_MOST_LOOKS:]
        if now_ns - self._all_runs_at_ns > _ALL_RUNS_EVERY_NS:
            self._all_runs_at_ns = now_ns
            self._drop_overtaken(read_progress)
            runs = [run for run in self._runs.values() if not isinstance(run, CountedRun) and not run.is_settled]
        done: list[Exchange] = []
        for run in runs:
            progress = read_progress(run.connection, run.position)
            if progress is None or progress.position != run.position:
                continue
            if progress.is_lost:
                self._forget_lost(run)
                continue
            believed = self._believed(run, progress, now_ns)
            if believed is None:
                continue
            progress = believed
            run, advanced = self._advance(run, progress)
            done += advanced
            if progress.ended:
                done += self._end(run, EndReason(progress.ended), None, now_ns)
            elif isinstance(run, Run):
                done += run.after_quiet(now_ns - progress.response_last_monotonic_ns)
            if run.is_settled:
                self._waiting.pop(run.connection, None)
        return done

    def end_all(self, read_progress: ReadProgress) -> None:
        """The agent stops: what is still open is counted, not invented."""
        for run in list(self._runs.values()):
            progress = read_progress(run.connection, run.position)
            if progress is not None and _is_lost(run, progress):
                self._forget_counted(run)
        for run in list(self._runs.values()):
            self._lose("open at the end", run.service_pid, run.unreported_count)
            self._forget(run)

    def _believed(self, run: OpenRun, progress: Progress, now_ns: int) -> Progress | None:
        readings = self._readings.get(run.connection)
        if readings is None:
            if not run.would_guess(progress):
                return progress
            readings = self._readings[run.connection] = Readings()
        return readings.believed(run, progress, now_ns)

    def _begin(self, record: Record, head: Head) -> list[Exchange]:
        previous = self._runs.get(record.connection)
        if previous is None:
            if len(self._runs) >= self._max_connections:
                self._evict()
            return self._open(record, 0, head)
        if isinstance(previous, PlainRun) and previous.is_settled_before(record):
            # Nearly always; nothing else of it is left to be counted.
            del self._runs[record.connection]
            if self._waiting:
                self._waiting.pop(record.connection, None)
            if self._readings:
                self._readings.pop(record.connection, None)
            return self._open(record, previous.extra, head)
        return self._begin_behind(previous, record, head)

    def _begin_behind(self, previous: AnyRun, record: Record, head: Head) -> list[Exchange]:
        """A request on a connection of which more is to be known than that it was there."""
        done: list[Exchange] = []
        extra, unread_bytes, is_end_unknown = previous.extra, 0, False
        if _was_lost(previous, record.position, record.lost):
            is_unpaired = previous.is_unpaired or previous.has_overlapped
            self._forget_counted(previous)
        else:
            if not previous.is_settled and not isinstance(previous, CountedRun):
                previous, done = self._before_next(previous)
            if isinstance(previous, Run) and previous.goes_on_with(record):
                return done + self._go_on(previous, record)
            is_unpaired, is_end_unknown = previous.owes_answers, previous.may_hold(record.payload)
            if not previous.is_settled and not isinstance(previous, CountedRun):
                previous, last = self._finish(previous, EndReason.NEXT_REQUEST, record.at_monotonic_ns)
                done += last
            extra, unread_bytes = previous.extra, previous.unread_request_bytes
            self._forget(previous)
        if unread_bytes or is_end_unknown:
            # An early answer: these bytes are the rest of the body before, whatever they look like, or they may be.
            reason = "not a request but the rest of a body" if unread_bytes else "behind a body without a known end"
            self._lose(reason, record.service_pid)
            owed_bytes = unread_bytes or UNKNOWN_BYTES
            self._runs[record.connection] = CountedRun.of(record, extra, is_unpaired, owed_bytes)
            return done
        return done + self._open(record, extra, head, is_unpaired=is_unpaired)

    def _open(self, record: Record, extra: int, head: Head, *, is_unpaired: bool = False) -> list[Exchange]:
        """The connection has no run."""
        run: OpenRun | None = None
        try:
            run = None if is_unpaired else PlainRun.begin(record, extra, head)
            if run is None:
                run = Run(record, extra, is_unpaired=is_unpaired)
                run.feed(record)
            self._runs[record.connection] = run
            if self.kinship is not None:
                self.kinship.begin(run, record)
        except NotHttpError:
            self._lose("not HTTP", record.service_pid)
            self._runs[record.connection] = CountedRun.of(record, extra, is_unpaired)
        return []

    def _before_next(self, run: OpenRun) -> tuple[Run, list[Exchange]]:
        full = self._with_readers(run)
        return full, full.before_next()

    def _go_on(self, run: Run, record: Record) -> list[Exchange]:
        """The client has not waited: the kernel's next exchange belongs to the same run."""
        run.go_on_with(record)
        self._readings.pop(record.connection, None)  # the table counts anew
        try:
            return run.feed(record)
        except NotHttpError:
            # The kernel counted it as a request; what came before is reported as far as it was seen.
            self._lose("not HTTP", record.service_pid)
            run.drop_head()
            done = run.end(EndReason.NEXT_REQUEST, record.at_monotonic_ns)
            self._forget(run)
            self._runs[record.connection] = CountedRun.of(record, run.extra, True)
            return done

    def _feed_run(self, run: OpenRun, record: Record, head: Head) -> list[Exchange]:
        try:
            done = run.feed(record, head) if isinstance(run, PlainRun) else run.feed(record)
            if done is None:
                run = self._with_readers(run)
                done = run.feed(record)
        except NotHttpError:
            self._lose("not HTTP", run.service_pid, run.unreported_count)
            self._forget(run)
            owed_bytes = _owed_bytes(run, record) if record.kind == _RESPONSE else 0
            self._runs[record.connection] = CountedRun.of(record, run.extra, owed_bytes=owed_bytes)
            return []
        if run.is_settled:
            if self._waiting:
                self._waiting.pop(run.connection, None)
        elif record.kind == _RESPONSE:
            self._waiting[run.connection] = run
        return done

    def _end(self, run: OpenRun, reason: EndReason, record: Record | None, now_ns: int = 0) -> list[Exchange]:
        done: list[Exchange] = []
        if record is not None:
            run, done = self._advance(run, record)
        if reason in _NEXT:
            run, completed = self._before_next(run) if not run.is_settled else (run, [])
            if reason == EndReason.NEXT_RESPONSE or (isinstance(run, Run) and run.may_go_on()):
                return done + completed
            done += completed
        if reason == EndReason.NOT_HTTP:
            self._lose("not HTTP", run.service_pid, run.unreported_count)
        elif not run.is_settled:
            at_ns, flags = (now_ns, 0) if record is None else (record.at_monotonic_ns, record.flags)
            run, last = self._finish(run, reason, at_ns, flags, is_late=record is None)
            done += last
        if reason == EndReason.NEXT_REQUEST:
            self._waiting.pop(run.connection, None)
        else:
            self._forget(run)
        return done

    def _finish(
        self, run: OpenRun, reason: EndReason, at_ns: int, flags: int = 0, *, is_late: bool = False
    ) -> tuple[Run, list[Exchange]]:
        full = self._with_readers(run)
        done = full.end(reason, at_ns, flags, is_late=is_late)
        if not full.has_head:
            self._lose("head never complete", full.service_pid)
        return full, done

    def _advance(self, run: OpenRun, progress: Progress | Record) -> tuple[OpenRun, list[Exchange]]:
        done = run.advance(progress)
        if done is None:
            run = self._with_readers(run)
            done = run.advance(progress)
        return run, done

    def _with_readers(self, run: OpenRun) -> Run:
        """The same run, able to follow what is not plain; from now on it stands in the tables."""
        if isinstance(run, Run):
            return run
        full = run.with_readers()
        if run.connection in self._runs:
            self._runs[run.connection] = full
        if run.connection in self._waiting:
            self._waiting[run.connection] = full
        return full

    def _drop_overtaken(self, read_progress: ReadProgress) -> None:
        """A run may be lost together with all that came after it on its connection: no record tells, the table does.

        What the table says may lie ahead of the ring. It does not once it has stood still from one look to the next.
        """
        before, self._overtaken = self._overtaken, {}
        lost = sum(account.kernel[KernelCounter.LOST_RING_FULL] for account in self.ledger.accounts.values())
        self._quiet_looks = 0 if lost != self._lost else self._quiet_looks + 1
        self._lost = lost
        # Runs that were reported matter only where the kernel may have counted them as lost meanwhile.
        with_settled = self._quiet_looks <= _LOOKS_AFTER_LOSS
        for run in list(self._runs.values()):
            if run.is_settled and not with_settled:
                continue
            progress = read_progress(run.connection, run.position)
            if progress is None or progress.position == run.position:
                continue
            seen = (run.position, progress.position, progress.lost_count)
            if before.get(run.connection) != seen:
                self._overtaken[run.connection] = seen
            elif _is_lost(run, progress):
                self._forget_counted(run)

    def _forget_counted(self, run: AnyRun) -> None:
        """The kernel has counted it as lost. If it was reported all the same, by the progress table, it is not lost."""
        self.ledger.of(run.service_pid).recovered += run.is_settled
        self._forget_lost(run)

    def _forget_lost(self, run: AnyRun) -> None:
        """The kernel has counted the run as one loss; requests pipelined behind the first are lost with it."""
        self._lose(RING_FULL, run.service_pid, max(0, run.unreported_count - 1))
        self._forget(run)
        self._runs[run.connection] = CountedRun(
            run.connection,
            run.position,
            run.service_pid,
            run.extra,
            (run.lost + 1) & 0xFF,
            run.is_unpaired or run.has_overlapped,
        )

    def _forget(self, run: AnyRun) -> None:
        if self._runs.pop(run.connection, None) is not None:
            if self.kinship is not None and not isinstance(run, CountedRun):
                self.kinship.end(run)
            if run.pipelined_count:
                self.ledger.of(run.service_pid).pipelined += run.pipelined_count
            if run.unseen_count:
                self._lose("head in one call with a body", run.service_pid)
        self._waiting.pop(run.connection, None)
        self._readings.pop(run.connection, None)

    def _bound_memory(self) -> None:
        self._captured_bytes = 0
        for run in runs_to_drop(self._runs.values(), MAX_KEPT_BYTES):
            self._lose("evicted", run.service_pid, run.unreported_count)
            self._forget(run)
            is_unpaired = run.is_unpaired or run.has_overlapped
            self._runs[run.connection] = CountedRun(
                run.connection, run.position, run.service_pid, run.extra, run.lost, is_unpaired
            )

    def _evict(self) -> None:
        """The oldest connection gives way; what it had open is counted."""
        run = next(iter(self._runs.values()))
        self._lose("evicted", run.service_pid, run.unreported_count)
        self._forget(run)

    def _lose(self, reason: str, service_pid: int, count: int = 1) -> None:
        if count:
            self.ledger.of(service_pid).tally[reason] += count


def _owed_bytes(run: OpenRun, record: Record) -> int:
    """Of the run's requests, at `record`; counted from the position's beginning, as CountedRun has it."""
    if not isinstance(run, Run) or run.is_between_requests:
        return 0
    unread_bytes = run.unread_request_bytes
    return record.request_bytes + unread_bytes if unread_bytes else UNKNOWN_BYTES


def _was_lost(run: AnyRun, position: int, lost_count: int) -> bool:
    """Is `run` one of those counted as lost before `position`? All between the two are: nothing came of them."""
    between = position - run.position - 1
    return (lost_count - run.lost - between) & 0xFF == 1


def _is_lost(run: AnyRun, progress: Progress) -> bool:
    """By the progress table, which may have come to a later exchange of the connection already.

    Counts are modulo 256: to be believed of a later exchange when no record of the connection is still to be read.
    """
    if progress.position == run.position:
        return progress.is_lost and progress.lost_count != run.lost
    return _was_lost(run, progress.position, progress.lost_count - progress.is_lost)
