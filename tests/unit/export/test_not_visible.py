"""What cannot be seen, in words."""

from otel_ebpf.exchanges.ledger import Account
from otel_ebpf.export.not_visible import not_visible
from otel_ebpf.records.kinds import Counter


def test_what_was_counted_comes_before_what_was_found_in_processes():
    kernel = tuple(3 if counter is Counter.HTTP2 else 0 for counter in Counter)
    hidden = {"tls libssl.so.3": (41,), "io_uring": (41, 42), "32-bit": (43,)}

    assert [
        "3 connections speak HTTP/2, which is not read by this version",
        "32-bit code runs in process 43: its system calls are not read",
        "io_uring is set up in processes 41, 42: what moves through it is not seen",
        "libssl.so.3 is loaded in process 41: TLS through it is not read",
    ] == not_visible(Account(kernel=kernel), hidden)


def test_of_many_processes_the_first_are_named():
    (line,) = not_visible(Account(), {"io_uring": tuple(range(1, 21))})

    assert "processes 1, 2, 3, 4, 5, 6, 7, 8 and 12 more:" in line


def test_nothing_is_said_where_nothing_hides():
    assert [] == not_visible(Account(), {})
