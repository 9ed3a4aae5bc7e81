"""Batches on disk, for a time in which the collector takes none; they outlive the process and the host.

In:   encoded requests, each with the number of its batch
Out:  the same, oldest first, until each is settled
Owns: the database in its folder, and the count of what it had to drop

A row is a whole ExportTraceServiceRequest, so it is sent as it lies there. What `add` has returned from survives kill -9 and,
since every commit is synchronised to the disk (WAL, synchronous=FULL), the loss of power. A row is deleted after the
collector has taken it: what could not be deleted in time is sent twice, never lost.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from otel_ebpf.errors import AgentError
from otel_ebpf.export.otlp import split_request

DATABASE = "spool.db"
DAMAGED = "damaged.db"
BUSY_SECONDS = 10.0  # for a disk that is slow under the other thread; for longer, one that hangs must not hold both
CLOSING_SECONDS = 1.0
SHRINK_FROM_PAGES = 1024
_FORMAT = 1
_PAGE_BYTES = 4096
_NONE = -1
_SET_UP = (
    f"PRAGMA page_size = {_PAGE_BYTES}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_size_limit = 4194304",
    "PRAGMA temp_store = MEMORY",  # the process may write nowhere else
    # The request stands last: counting does not read it.
    """CREATE TABLE IF NOT EXISTS batches (
        number INTEGER PRIMARY KEY, spans INTEGER NOT NULL, bytes INTEGER NOT NULL, request BLOB NOT NULL)""",
    f"PRAGMA user_version = {_FORMAT}",
)
_DELETE = "DELETE FROM batches WHERE number <= ?"
_LOST = "the batch that was being sent is lost with the damaged file"
_Result = TypeVar("_Result")


class SpoolError(Exception):
    """The disk is full, fails or hangs; what was asked for has not been done."""


class Kept(NamedTuple):
    number: int
    span_count: int
    request: bytes


class Spool:
    """A bounded queue of requests in one file. For several threads; each call may wait for the disk."""

    def __init__(self, folder: Path, limit_bytes: int, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.spans = 0  # that lie here and are not settled
        self.size_bytes = 0  # of pages in use; the file is a few pages larger, its journal 4 MiB at most
        self.dropped = 0  # spans, by the limit or by damage
        self.inherited = 0  # spans that were here already
        self._report = report
        self._database: sqlite3.Connection | None = None
        self._first_number = 0  # of this process
        self._in_hand = _NONE  # the row that is being sent: it must not be dropped, it may be delivered already
        self._settled = _NONE, 0  # this row and all before it are done with; their bytes, while they wait to be deleted
        self._is_closed = False
        self._lock = threading.Lock()  # for the disk
        self._counting = threading.Lock()  # for the numbers above; nobody who holds it waits

    def open(self) -> None:
        """To be called without rights that matter: the file is parsed."""
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise AgentError(
                f"OTEL_EBPF_SPOOL_DIR={self.folder} cannot be reached by user {os.geteuid()}, who is to write there.",
                "Name a folder below others that everybody may enter.",
            )
        self._use(lambda database: None)

    def add(self, number: int, request: bytes, span_count: int) -> None:
        """Keeps a batch; drops the oldest ones for it if it must. `number` counts from the start of the process."""
        size = _stored_bytes(request)

        def insert(database: sqlite3.Connection) -> None:
            with self._counting:
                in_hand, (settled, settled_bytes) = self._in_hand, self._settled
            dropped: list[tuple[int, int, int]] = []
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute(_DELETE, (settled,))
                excess = self.size_bytes - settled_bytes + size - self.limit_bytes
                if excess > 0:
                    for row in database.execute("SELECT number, spans, bytes FROM batches ORDER BY number"):
                        if row[0] != in_hand:
                            dropped.append(row)
                            excess -= row[2]
                        if excess <= 0:
                            break
                    database.executemany("DELETE FROM batches WHERE number = ?", [row[:1] for row in dropped])
                row = (self._first_number + number, span_count, size, request)
                database.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
            self._deleted(settled_bytes)
            with self._counting:
                lost = sum(spans for _, spans, _ in dropped)
                self.spans += span_count - lost
                self.size_bytes += size - sum(row_bytes for _, _, row_bytes in dropped)
                self.dropped += lost

        self._use(insert)

    def oldest(self) -> Kept | None:
        """Stays where it is until it is settled; for one consumer."""

        def select(database: sqlite3.Connection) -> Kept | None:
            row = database.execute(
                "SELECT number, spans, request FROM batches WHERE number > ? ORDER BY number LIMIT 1", self._settled[:1]
            ).fetchone()
            if row is None:
                return None
            self._in_hand = row[0]
            return Kept(*row)

        return self._use(select)

    def settle(self, kept: Kept, unsent_spans: int) -> None:
        """The collector has taken or refused all but the last `unsent_spans` of it.

        SpoolError: that does not count, for it comes again, or was counted as lost with a damaged file."""
        if unsent_spans:
            try:
                if unsent_spans < kept.span_count:
                    _, rest = split_request(kept.request, kept.span_count - unsent_spans)
                    self._use(lambda database: self._replace(database, kept, rest, unsent_spans))
            finally:
                self._in_hand = _NONE
            return
        with self._counting:
            if self._in_hand != kept.number:
                raise SpoolError(_LOST)
            self._in_hand = _NONE
            self._settled = kept.number, self._settled[1] + _stored_bytes(kept.request)
            self.spans -= kept.span_count
        with contextlib.suppress(SpoolError):  # what cannot be deleted now goes with the next one
            self._use(self._tidy)

    def close(self) -> None:
        """For good. What is committed is safe without it, too."""
        self._is_closed = True
        if self._lock.acquire(timeout=CLOSING_SECONDS):
            self._close()
            self._lock.release()

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # the next start tidies up
                self._database.close()
        self._database = None

    def _replace(self, database: sqlite3.Connection, kept: Kept, request: bytes, span_count: int) -> None:
        size = _stored_bytes(request)
        row = (span_count, size, request, kept.number)
        if not database.execute("UPDATE batches SET spans = ?, bytes = ?, request = ? WHERE number = ?", row).rowcount:
            raise SpoolError(_LOST)
        with self._counting:
            self.spans += span_count - kept.span_count
            self.size_bytes += size - _stored_bytes(kept.request)

    def _tidy(self, database: sqlite3.Connection) -> None:
        """Deletes what is settled; gives the space of an empty spool back to the disk."""
        settled, settled_bytes = self._settled
        database.execute(_DELETE, (settled,))
        self._deleted(settled_bytes)
        if not self.spans and database.execute("PRAGMA page_count").fetchone()[0] >= SHRINK_FROM_PAGES:
            database.execute("VACUUM")

    def _deleted(self, settled_bytes: int) -> None:
        with self._counting:
            self.size_bytes -= settled_bytes
            self._settled = self._settled[0], self._settled[1] - settled_bytes

    def _use(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        if not self._lock.acquire(timeout=BUSY_SECONDS):
            raise SpoolError("the disk does not answer")
        try:
            try:
                return work(self._opened())
            except sqlite3.DatabaseError as error:
                # Its subclasses are errors of the disk (OperationalError); this class itself says that the file is damaged.
                if type(error) is not sqlite3.DatabaseError:
                    raise
                self._set_aside(error)
                return work(self._opened())
        except (sqlite3.Error, OSError) as error:
            why = "another process has it open" if "is locked" in str(error) else str(error)
            raise SpoolError(why) from error
        finally:
            self._lock.release()

    def _opened(self) -> sqlite3.Connection:
        if self._is_closed:
            raise SpoolError("it is closed")
        if self._database is None:
            path = self.folder / DATABASE
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            try:
                # One process at a time; and so no file of shared memory is needed.
                database.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version not in (0, _FORMAT):
                    raise sqlite3.DatabaseError(f"written by another version, in format {version}")
                for statement in _SET_UP:
                    database.execute(statement).fetchall()
                counted = "SELECT total(spans), total(bytes), coalesce(max(number), -1) FROM batches"
                spans, size, last = database.execute(counted).fetchone()
            except sqlite3.Error:
                database.close()
                raise
            self.spans, self.size_bytes = int(spans), int(size)
            self.inherited += self.spans
            self._first_number = last + 1
            self._database = database
        return self._database

    def _set_aside(self, error: sqlite3.Error) -> None:
        """A damaged file is left for who wants to look at it; the one before it goes."""
        self._close()
        (self.folder / DATABASE).replace(self.folder / DAMAGED)
        (self.folder / f"{DATABASE}-wal").unlink(missing_ok=True)
        lost = f"the {self.spans} spans" if self.spans else "the spans"
        with self._counting:
            self.dropped += self.spans
            self.spans = self.size_bytes = 0
            self._in_hand, self._settled = _NONE, (_NONE, 0)
        self._report(
            f"the spool in {self.folder} is damaged: {error}. It is set aside as {DAMAGED}, {lost} in it are lost; "
            "a new one is begun."
        )


def _stored_bytes(request: bytes) -> int:
    """What a row takes in whole pages: its place in the table, and its overflow."""
    return (len(request) // (_PAGE_BYTES - 4) + 2) * _PAGE_BYTES
