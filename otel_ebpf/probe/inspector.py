"""Looks into files that targets have mapped, for a TLS library or what else is asked for, in a process of its own.

In:   open files, in batches
Out:  for each its TlsLibrary or GoTls (or what else), or why that cannot be read, or None when it holds none
Owns: the forked child, while it works

What a container brings as its library is nothing that root should parse. The child gives up its capabilities first,
and takes the memory that parsing needs with it when it ends.
"""

import contextlib
import json
import mmap
import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, Generic, TypeVar

from otel_ebpf.probe import privileges
from otel_ebpf.probe.tls_functions import Function, GoTls, Layout, TlsLibrary

Finding = TlsLibrary | GoTls | str | None
Found = TypeVar("Found")
Examine = Callable[[int], object]  # in the child: an open file -> what JSON can hold; a text: why it cannot be read
_GO_MARK = b"\0crypto/tls.(*Conn).Write\0"
_MARKS = _GO_MARK, b"SSL_read\0", b"gnutls_record_recv\0"
_GO = "go"  # begins the answer for a Go program
_MAX_SECONDS = 20
_MAX_MEMORY_BYTES = 512 << 20
_MAX_ANSWER_BYTES = 1 << 20
_UNREADABLE = "its functions could not be made out"


class FileInspector(Generic[Found]):
    """One batch at a time: `start`; whenever `fileno` can be read, `receive`, until it says that this was all; `finish`."""

    def __init__(self, examine: Examine, decode: Callable[[Any], Found]) -> None:
        self._examine = examine
        self._decode = decode
        self._child = 0
        self._answer = -1
        self._text = b""
        self._count = 0

    @property
    def is_busy(self) -> bool:
        return self._child > 0

    def fileno(self) -> int:
        return self._answer

    def start(self, files: Sequence[int]) -> None:
        """`files` stay the caller's."""
        read_end, write_end = os.pipe()
        self._count = len(files)
        self._child = os.fork()
        if not self._child:
            os.close(read_end)
            _work(write_end, files, self._examine)
        os.close(write_end)
        self._answer = read_end

    def receive(self) -> bool:
        """Never waits; True at the end of the answer, which comes line by line."""
        part = os.read(self._answer, _MAX_ANSWER_BYTES)
        self._text += part
        return not part or len(self._text) > _MAX_ANSWER_BYTES

    def finish(self) -> list[Found]:
        """Waits for the end of the child; one finding for each file of the batch, in its order.

        Fewer when the child broke down: the last one then says so, and those behind it can be asked for again.
        """
        while not self.receive():
            pass
        os.close(self._answer)
        os.waitpid(self._child, 0)
        text, self._text = self._text, b""
        self._child, self._answer = 0, -1
        whole_lines = text.split(b"\n")[:-1]
        found = [self._decode(json.loads(line)) for line in whole_lines[: self._count]]
        return found if len(found) == self._count else [*found, self._decode(_UNREADABLE)]

    def close(self) -> None:
        if self.is_busy:
            self.finish()


class Inspector(FileInspector[Finding]):
    """For TLS libraries."""

    def __init__(self) -> None:
        super().__init__(_examine_tls, _decode)


def _decode(row: list[Any] | str | None) -> Finding:
    if row is None or isinstance(row, str):
        return row
    if row[0] == _GO:
        return GoTls(*row[1:])
    layout, functions = row
    assert isinstance(layout, list)
    assert isinstance(functions, list)
    made = [
        Function(name, offset, is_write, count_argument, is_emulated, tuple(results), is_of_file)
        for name, offset, is_write, count_argument, is_emulated, results, is_of_file in functions
    ]
    return TlsLibrary(Layout(*layout), tuple(made))


def _work(write_end: int, files: Sequence[int], examine: Examine) -> None:
    """The child's whole life. Each line is written when it is known: one bad file spoils itself alone."""
    status = 1
    try:
        privileges.limit_capabilities(())
        resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with os.fdopen(write_end, "w") as answer:
            for file in files:
                answer.write(json.dumps(examine(file)) + "\n")
                answer.flush()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, it must not unwind into the parent's code twice
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _examine_tls(file: int) -> object:
    from otel_ebpf.probe.elf_image import UnreadableTlsError  # here: the parent needs none
    from otel_ebpf.probe.tls_library import NoTlsError

    try:
        if mark := _mark(file):
            return _go_row(file) if mark == _GO_MARK else _row(file)
    except NoTlsError:
        return None
    except UnreadableTlsError as error:
        return str(error)
    return None


def _row(file: int) -> list[object]:
    from otel_ebpf.probe import tls_library

    with open(os.dup(file), "rb") as opened:
        library = tls_library.inspect(opened)
    return [list(astuple(library.layout)), [astuple(function) for function in library.functions]]


def _go_row(file: int) -> list[object]:
    from otel_ebpf.probe import go_library

    with open(os.dup(file), "rb") as opened:
        return [_GO, *astuple(go_library.inspect(opened))]


def _mark(file: int) -> bytes:
    """Most files hold no such name: they are not parsed at all. A Go program is read as one, whatever it has linked."""
    with contextlib.suppress(ValueError, OSError), mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
        return next((mark for mark in _MARKS if content.find(mark) >= 0), b"")
    return b""
