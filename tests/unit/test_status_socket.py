"""The socket of `otel-ebpf status`: who may ask, what a killed agent leaves behind, two agents on one host."""

import contextlib
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.export.status import StatusServer
from otel_ebpf.status_socket import StatusUnavailableError, ask_status, listen_for_status, remove_status_file


@pytest.fixture
def path() -> Iterator[str]:
    """pytest's own folders are too long for the address of a socket."""
    with tempfile.TemporaryDirectory(prefix="otel-ebpf-") as folder:
        yield f"{folder}/agent/status.sock"


def answer(server: StatusServer, path: str) -> bytes:
    """Asks from another thread, as another process does, while the server's loop turns."""
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(ask_status(path)))
    asking.start()
    while asking.is_alive():
        server.serve()
        asking.join(0.005)
    return answers[0]


def test_who_asks_gets_the_whole_document(path: str) -> None:
    """Also one that is far longer than a socket's buffer, which the loop sends piece by piece without waiting."""
    server = StatusServer(listen_for_status(path))
    server.document = lambda: bytes(range(256)) * 8000
    try:
        assert bytes(range(256)) * 8000 == answer(server, path)
        server.document = lambda: b"next"
        assert b"next" == answer(server, path)
    finally:
        server.close()


def test_only_this_user_may_connect(path: str) -> None:
    listener = listen_for_status(path)
    listener.close()

    assert 0o700 == stat.S_IMODE(os.stat(Path(path).parent).st_mode)
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)


def test_what_a_killed_agent_left_is_replaced(path: str) -> None:
    listen_for_status(path).close()
    assert Path(path).exists()
    server = StatusServer(listen_for_status(path))
    server.document = lambda: b"new"
    try:
        assert b"new" == answer(server, path)
    finally:
        server.close()


def test_a_second_agent_leaves_the_first_one_its_socket(path: str) -> None:
    server = StatusServer(listen_for_status(path))
    server.document = lambda: b"first"
    try:
        with pytest.raises(StatusUnavailableError, match="another agent listens"):
            listen_for_status(path)
        remove_status_file(path)
        assert b"first" == answer(server, path)
    finally:
        server.close()


def test_a_file_of_another_kind_is_not_removed(path: str) -> None:
    Path(path).parent.mkdir(mode=0o700)
    Path(path).write_text("precious")

    with pytest.raises(StatusUnavailableError, match="is no socket"):
        listen_for_status(path)
    remove_status_file(path)
    assert "precious" == Path(path).read_text()


def test_a_folder_that_others_can_write_is_refused(path: str) -> None:
    """Whoever can replace the file could tell root what he likes."""
    Path(path).parent.mkdir()
    Path(path).parent.chmod(0o777)

    with pytest.raises(StatusUnavailableError, match="written by others"):
        listen_for_status(path)


def test_the_file_goes_with_its_agent(path: str) -> None:
    listen_for_status(path).close()
    remove_status_file(path)

    assert not Path(path).exists()
    remove_status_file(path)


def test_without_an_agent_the_answer_says_so(path: str) -> None:
    with pytest.raises(StatusUnavailableError, match="no agent listens"):
        ask_status(path)
    listen_for_status(path).close()
    with pytest.raises(StatusUnavailableError, match="no agent listens"):
        ask_status(path)


def test_one_that_sends_a_byte_at_a_time_does_not_hold_who_asks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for the whole answer."""
    monkeypatch.setattr("otel_ebpf.status_socket._TIMEOUT_SECONDS", 0.2)
    listener = listen_for_status(path)
    listener.setblocking(True)
    has_asked = threading.Event()

    def drip() -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            while not has_asked.wait(0.01):
                client.send(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        with pytest.raises(StatusUnavailableError, match="does not answer"):
            ask_status(path)
    finally:
        has_asked.set()
        dripping.join()
        listener.close()


def test_who_does_not_read_is_dropped_and_holds_nobody_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four that only connect take all places, for two seconds."""
    server = StatusServer(listen_for_status(path))
    server.document = lambda: b"x" * 3_000_000
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
    try:
        for asking in silent:
            asking.connect(path)
        server.serve()
        import otel_ebpf.export.status as module

        real = module.time.monotonic
        monkeypatch.setattr(module.time, "monotonic", lambda: real() + 3)
        server.serve()
        assert 3_000_000 == len(answer(server, path))
    finally:
        for asking in silent:
            asking.close()
        server.close()


def test_nothing_is_read_from_who_connects(path: str) -> None:
    server = StatusServer(listen_for_status(path))
    server.document = lambda: b"document"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.connect(path)
            asking.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            server.serve()
            assert b"document" == asking.recv(100)
    finally:
        server.close()


def test_one_that_left_before_it_was_served_is_forgotten(path: str) -> None:
    server = StatusServer(listen_for_status(path))
    server.document = lambda: b"x" * 3_000_000
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.connect(path)
        server.serve()
        server.serve()
        server.document = lambda: b"next"
        assert b"next" == answer(server, path)
    finally:
        server.close()
