"""Which lookup belongs to which exchange."""

import pytest

from otel_ebpf.exchanges.lookups import MAX_WAIT_NS, Lookups
from otel_ebpf.records.kinds import Lookup
from tests.unit.telemetry.examples import client_exchange, exchange, lookup


def lookups(*added: Lookup) -> Lookups:
    made = Lookups(most=2)
    for one in added:
        made.add(one)
    return made


@pytest.mark.parametrize(
    ("host", "target", "is_found"),
    [
        (b"shop.example:8080", b"/", True),
        (b"10.0.0.9:8080", b"/", True),
        (b"10.0.0.9", b"/", True),
        (b"[2001:db8::9]:8080", b"/", True),
        (None, b"/", True),
        (b"other.example", b"http://other.example/", True),  # shop.example is a proxy
        (b"other.example", b"other.example:443", True),
        (b"other.example", b"/", False),  # the thread may have asked for something else
    ],
)
def test_when_the_thread_that_asked_has_connected(host: bytes | None, target: bytes, is_found: bool):
    told = lookup(connection=7)

    assert (told if is_found else None) is lookups(told).find(client_exchange(host=host, target=target))


@pytest.mark.parametrize(
    ("host", "is_found"),
    [
        (b"shop.example", True),
        (b"shop.example:8080", True),
        (b"SHOP.example.", True),
        (b"other.example", False),
        (b"10.0.0.9", False),
        (None, False),
    ],
)
def test_when_another_thread_asked_the_host_must_be_the_name(host: bytes | None, is_found: bool):
    told = lookup(connection=7, is_same_thread=False)

    assert (told if is_found else None) is lookups(told).find(client_exchange(host=host, position=0))


def test_of_another_threads_lookup_only_the_first_exchange_may_have_waited():
    told = lookup(connection=7, is_same_thread=False)

    assert None is lookups(told).find(client_exchange(host=b"shop.example", position=1))


def test_one_that_used_a_connection_from_stock_has_not_waited():
    told = lookup(connection=7, is_same_thread=False)
    late = {"request_start_ns": told.end_monotonic_ns + MAX_WAIT_NS}

    assert None is lookups(told).find(client_exchange(host=b"shop.example", position=0, **late))
    in_time = {"request_start_ns": told.end_monotonic_ns + MAX_WAIT_NS - 1}
    assert told is lookups(told).find(client_exchange(host=b"shop.example", position=0, **in_time))


@pytest.mark.parametrize(("host", "is_found"), [(b"shop.example", True), (b"10.0.0.9", False), (None, False)])
def test_where_the_address_has_two_names_the_host_must_be_the_one(host: bytes | None, is_found: bool):
    told = lookup(connection=7, is_only_name=False)

    assert (told if is_found else None) is lookups(told).find(client_exchange(host=host))


def test_a_lookup_that_two_connections_may_have_waited_for_is_neithers():
    first = lookup(connection=7, is_same_thread=False)
    made = lookups(first, lookup(connection=8, former_connection=7, is_same_thread=False))

    for connection in (7, 8):
        assert None is made.find(client_exchange(host=b"shop.example", connection=connection, position=0))
    assert (1, 1) == (made.taken, made.taken_back)


def test_the_thread_that_asked_takes_its_lookup_back():
    own = lookup(connection=8, former_connection=7)
    made = lookups(lookup(connection=7, is_same_thread=False), own)

    assert None is made.find(client_exchange(host=b"shop.example", connection=7, position=0))
    assert own is made.find(client_exchange(host=b"shop.example", connection=8, position=0))


def test_a_server_has_asked_for_nothing():
    assert None is lookups(lookup(connection=7)).find(exchange())


def test_other_connections_have_none():
    assert None is lookups(lookup(connection=8)).find(client_exchange())


@pytest.mark.parametrize("name", [b"", b"a b", b"a\nb", b"a\x00b", b"a/b", b"fe80::1%eth0", b"user@host"])
def test_what_no_name_can_be_is_counted_and_not_kept(name: bytes):
    made = lookups(lookup(connection=7, name=name))

    assert None is made.find(client_exchange())
    assert 1 == made.unreadable


def test_names_of_other_scripts_are_kept():
    name = "bücher.example".encode()

    assert None is not lookups(lookup(connection=7, name=name)).find(client_exchange(host=name))


def test_the_oldest_make_room_and_are_counted():
    made = lookups(*(lookup(connection=number) for number in (7, 8, 9)))

    assert 1 == made.forgotten
    assert None is made.find(client_exchange(connection=7))
    assert None is not made.find(client_exchange(connection=9))
