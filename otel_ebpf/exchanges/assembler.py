"""Turns the records of all connections into exchanges.

In:   records in the order of the ring; readings of the progress table; the time
Out:  exchanges, each once
Owns: the open run of each connection, and the count of what could not become an exchange

Pure: the time and the readings are passed in.
"""

from collections import Counter
from collections.abc import Callable

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.exchanges.http1 import NotHttpError
from otel_ebpf.exchanges.plain_run import PlainRun
from otel_ebpf.exchanges.run import Run
from otel_ebpf.records.kinds import EndReason, Kind, Record
from otel_ebpf.records.progress import Progress

_ALL_RUNS_EVERY_NS = 1_000_000_000

AnyRun = PlainRun | Run
ReadProgress = Callable[[int, int], Progress | None]


class Assembler:
    """`losses` counts requests by why they gave no exchange; `pipelined` those that the kernel could not count."""

    def __init__(self, max_connections: int = 65536) -> None:
        self.losses: Counter[str] = Counter()
        self.stray_records = 0  # of exchanges whose beginning is not known
        self.pipelined = 0
        self.recovered = 0  # reported, though the kernel has counted them as lost
        self._max_connections = max_connections
        self._runs: dict[int, AnyRun] = {}
        self._waiting: dict[int, AnyRun] = {}  # a response has begun, and its end is still to come
        self._all_runs_at_ns = 0

    @property
    def open_count(self) -> int:
        return sum(run.unreported_count for run in self._runs.values())

    def feed(self, record: Record) -> list[Exchange]:
        """One record; returns the exchanges that it ends or completes."""
        if record.kind == Kind.REQUEST:
            return self._begin(record)
        run = self._runs.get(record.connection)
        if run is None or run.position != record.position:
            if record.kind != Kind.END:
                self.stray_records += 1
            return []
        if record.kind == Kind.END:
            return self._end(run, EndReason(record.reason), record)
        return self._feed_run(run, record)

    def watch(self, read_progress: ReadProgress, now_ns: int) -> list[Exchange]:
        """Looks at what has been counted since for the responses that have not ended."""
        runs = list(self._waiting.values())
        if now_ns - self._all_runs_at_ns > _ALL_RUNS_EVERY_NS:
            self._all_runs_at_ns = now_ns
            runs = [run for run in self._runs.values() if not run.is_settled]
        done: list[Exchange] = []
        for run in runs:
            progress = read_progress(run.connection, run.position)
            if progress is None:
                continue
            if _is_lost(run, progress):
                self._forget_lost(run)
                continue
            if progress.position != run.position:
                continue  # the records that say so are on their way
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
                self._forget_lost(run)
        self.losses["open at the end"] += self.open_count
        for run in list(self._runs.values()):
            self._forget(run)

    def _begin(self, record: Record) -> list[Exchange]:
        done: list[Exchange] = []
        previous = self._runs.get(record.connection)
        extra = 0
        if previous is not None:
            if _was_lost(previous, record.position, record.lost):
                # The kernel has counted it. If it was reported all the same, by the progress table, it is not lost.
                self.recovered += previous.is_settled
                self._forget_lost(previous)
            elif not previous.is_settled:
                previous, done = self._finish(previous, EndReason.NEXT_REQUEST, record.at_monotonic_ns)
            extra = previous.extra
            self._forget(previous)
            if previous.unread_request_bytes:
                # An early answer: these bytes are the rest of the body before, whatever they look like.
                self.losses["not a request but the rest of a body"] += 1
                return done
        elif len(self._runs) >= self._max_connections:
            self._evict()
        run: AnyRun | None = None
        try:
            run = PlainRun.begin(record, extra)
            if run is None:
                run = Run(record, extra)
                run.feed(record)
        except NotHttpError:
            self.losses["not HTTP"] += 1
            return done
        self._runs[record.connection] = run
        return done

    def _feed_run(self, run: AnyRun, record: Record) -> list[Exchange]:
        try:
            done = run.feed(record)
            if done is None:
                run = self._with_readers(run)
                done = run.feed(record)
        except NotHttpError:
            self.losses["not HTTP"] += run.unreported_count
            self._forget(run)
            return []
        if record.kind == Kind.RESPONSE and not run.is_settled:
            self._waiting[run.connection] = run
        elif self._waiting and run.is_settled:
            self._waiting.pop(run.connection, None)
        return done

    def _end(self, run: AnyRun, reason: EndReason, record: Record | None, now_ns: int = 0) -> list[Exchange]:
        done: list[Exchange] = []
        if record is not None:
            run, done = self._advance(run, record)
        if reason == EndReason.NOT_HTTP:
            self.losses["not HTTP"] += run.unreported_count
        elif not run.is_settled:
            at_ns, flags = (now_ns, 0) if record is None else (record.at_monotonic_ns, record.flags)
            run, last = self._finish(run, reason, at_ns, flags)
            done += last
        if reason == EndReason.NEXT_REQUEST:
            self._waiting.pop(run.connection, None)
        else:
            self._forget(run)
        return done

    def _finish(self, run: AnyRun, reason: EndReason, at_ns: int, flags: int = 0) -> tuple[Run, list[Exchange]]:
        full = self._with_readers(run)
        done = full.end(reason, at_ns, flags)
        if not full.has_head:
            self.losses["head never complete"] += 1
        return full, done

    def _advance(self, run: AnyRun, progress: Progress | Record) -> tuple[AnyRun, list[Exchange]]:
        done = run.advance(progress)
        if done is None:
            run = self._with_readers(run)
            done = run.advance(progress)
        return run, done

    def _with_readers(self, run: AnyRun) -> Run:
        """The same run, able to follow what is not plain; from now on it stands in the tables."""
        if isinstance(run, Run):
            return run
        full = run.with_readers()
        for table in (self._runs, self._waiting):
            if run.connection in table:
                table[run.connection] = full
        return full

    def _forget_lost(self, run: AnyRun) -> None:
        """The kernel has counted the run as one loss; requests pipelined behind the first are lost with it."""
        self.losses["lost, ring full"] += max(0, run.unreported_count - 1)
        self._forget(run)

    def _forget(self, run: AnyRun) -> None:
        if self._runs.pop(run.connection, None) is not None:
            self.pipelined += run.pipelined_count
            if run.unseen_count:
                self.losses["head in one call with a body"] += 1
        self._waiting.pop(run.connection, None)

    def _evict(self) -> None:
        """The oldest connection gives way; what it had open is counted."""
        run = next(iter(self._runs.values()))
        self.losses["evicted"] += run.unreported_count
        self._forget(run)


def _was_lost(run: AnyRun, position: int, lost_count: int) -> bool:
    """Is `run` one of those counted as lost before `position`? All between the two are: nothing came of them."""
    between = position - run.position - 1
    return (lost_count - run.lost - between) & 0xFF == 1


def _is_lost(run: AnyRun, progress: Progress) -> bool:
    """By the progress table, which may have come to a later exchange of the connection already."""
    if progress.position == run.position:
        return progress.is_lost
    return _was_lost(run, progress.position, progress.lost_count - progress.is_lost)
