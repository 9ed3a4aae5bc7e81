"""What is measured, of whom, under which attributes, and how much of it is kept."""

from types import SimpleNamespace
from typing import Any

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.telemetry import metrics
from otel_ebpf.telemetry.metrics import OVERFLOW, Meter, MeterOptions, ServiceSeries, merge
from tests.unit.telemetry.examples import AF_UNIX, client_exchange, exchange

NS = 1_000_000_000
SHOP = SimpleNamespace(resource=b"shop", attributes={"service.name": "shop"})
BANK = SimpleNamespace(resource=b"bank", attributes={"service.name": "bank"})


def meter(**options: Any) -> Meter:
    made = Meter(MeterOptions(**options))
    made.begin_tick(NS)
    return made


def attributes_of(measured: Meter | dict[bytes, ServiceSeries], role: Role = Role.SERVER) -> list[dict[str, object]]:
    """Of all series of the shop."""
    services = measured.services if isinstance(measured, Meter) else measured
    return [dict(attributes) for attributes in services[b"shop"].roles[role]]


def counts(services: dict[bytes, ServiceSeries], resource: bytes = b"shop") -> dict[object, int]:
    """How often each status was measured."""
    of_role = services[resource].roles[Role.SERVER] if resource in services else {}
    return {
        dict(attributes).get("http.response.status_code", attributes): series.duration.count
        for attributes, series in of_role.items()
    }


def test_a_served_request_has_the_attributes_of_the_conventions() -> None:
    """Required and recommended ones; server.address is the sender's choice there, so it is left out."""
    measured = meter()
    measured.record(SHOP, exchange(), b"/items/{id}")

    expected = {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.route": "/items/{id}",
        "network.protocol.version": "1.1",
    }
    assert [expected] == attributes_of(measured)
    assert [] == attributes_of(measured, Role.CLIENT)


def test_a_made_request_names_the_server_as_it_was_asked_for() -> None:
    measured = meter()
    measured.record(SHOP, client_exchange(status=404))

    expected = {
        "http.request.method": "GET",
        "server.address": "shop.example",
        "server.port": 8080,
        "http.response.status_code": 404,
        "error.type": "404",
        "network.protocol.version": "1.1",
    }
    assert [expected] == attributes_of(measured, Role.CLIENT)


def test_a_made_request_without_host_names_the_peer_and_none_that_has_no_name() -> None:
    measured = meter()
    measured.record(SHOP, client_exchange(host=None))
    measured.record(SHOP, client_exchange(host=None, family=AF_UNIX, remote_address=bytes(16)))

    assert [("10.0.0.9", 8080), (None, None)] == [
        (found.get("server.address"), found.get("server.port")) for found in attributes_of(measured, Role.CLIENT)
    ]


@pytest.mark.parametrize(
    ("outcome", "error"), [(Outcome.RESET, "reset"), (Outcome.SERVER_CLOSED, "server_closed"), (Outcome.UNKNOWN, None)]
)
def test_an_exchange_without_an_answer_has_no_status_and_says_what_was_seen(
    outcome: Outcome, error: str | None
) -> None:
    measured = meter()
    measured.record(SHOP, exchange(status=None, outcome=outcome, response_start_ns=None, response_end_ns=None))

    (found,) = attributes_of(measured)
    assert (None, error) == (found.get("http.response.status_code"), found.get("error.type"))


def test_unknown_methods_and_targets_do_not_make_series() -> None:
    """`_OTHER`, and neither path nor query: those who send choose them."""
    measured = meter()
    for number in range(100):
        measured.record(SHOP, exchange(method=b"M%d" % number, target=b"/%d?q=%d" % (number, number)))
    measured.record(SHOP, exchange(target=b"https://shop.example/x?q"))

    assert [("_OTHER", "http"), ("GET", "https")] == [
        (found["http.request.method"], found["url.scheme"]) for found in attributes_of(measured)
    ]


def test_what_was_encrypted_is_measured_apart() -> None:
    """By `url.scheme`, also where all else is equal."""
    measured = meter()
    for scheme in (b"http", b"https", b"http"):
        measured.record(SHOP, exchange(scheme=scheme))

    assert ["http", "https"] == [found["url.scheme"] for found in attributes_of(measured)]


def test_the_duration_is_the_spans() -> None:
    """To the last byte that was seen; never less than nothing."""
    measured = meter()
    measured.record(SHOP, exchange(request_start_ns=0, end_ns=7))
    unseen = {"outcome": Outcome.UNKNOWN, "response_end_ns": 50, "end_ns": 9 * NS}
    measured.record(SHOP, exchange(request_start_ns=0, **unseen))
    measured.record(SHOP, exchange(request_start_ns=10, end_ns=9))

    (series,) = measured.services[b"shop"].roles[Role.SERVER].values()
    assert (57, 3, 0, 50) == (
        series.duration.total,
        series.duration.count,
        series.duration.least,
        series.duration.greatest,
    )


def test_sizes_are_measured_where_asked_for_and_known() -> None:
    measured = meter(are_sizes_measured=True)
    measured.record(SHOP, exchange(request_body_bytes=10, response_body_bytes=None))
    measured.record(SHOP, exchange(request_body_bytes=0, response_body_bytes=70_000))

    (series,) = measured.services[b"shop"].roles[Role.SERVER].values()
    assert series.request_size is not None
    assert series.response_size is not None
    assert (2, 10) == (series.request_size.count, series.request_size.total)
    assert (1, 70_000) == (series.response_size.count, series.response_size.total)
    unasked = meter()
    unasked.record(SHOP, exchange())
    (series,) = unasked.services[b"shop"].roles[Role.SERVER].values()
    assert series.request_size is None


def test_totals_go_on_and_a_reading_stays_as_it_was() -> None:
    measured = meter()
    measured.record(SHOP, exchange())
    first = measured.read()
    measured.record(SHOP, exchange())

    assert {200: 1} == counts(first)
    assert {200: 2} == counts(measured.read())


def test_differences_begin_where_the_last_ones_ended() -> None:
    """No gap and no overlap, so that their sum is the total."""
    measured = meter(is_delta=True)
    measured.record(SHOP, exchange())
    measured.begin_tick(5 * NS)
    first = measured.read()
    measured.begin_tick(9 * NS)
    measured.record(SHOP, exchange())
    measured.record(SHOP, exchange(status=500))
    second = measured.read()

    assert [{200: 1}, {200: 1, 500: 1}] == [counts(first), counts(second)]
    assert {NS} == {series.start_unix_ns for series in first[b"shop"].roles[Role.SERVER].values()}
    assert {5 * NS} == {series.start_unix_ns for series in second[b"shop"].roles[Role.SERVER].values()}
    assert {} == measured.read()


def test_a_series_begins_before_what_it_measured() -> None:
    """A start that equals the time of the first point means to some that the start is not known."""
    measured = meter()
    measured.begin_tick(2 * NS)
    measured.record(SHOP, exchange())

    (series,) = measured.read()[b"shop"].roles[Role.SERVER].values()
    assert NS == series.start_unix_ns


def test_a_series_that_nothing_comes_to_is_forgotten_and_begins_anew() -> None:
    measured = meter(ttl_ns=60 * NS)
    measured.record(SHOP, exchange())
    measured.record(SHOP, exchange(status=404))
    for second in range(10, 100, 10):
        measured.begin_tick(second * NS)
        measured.record(SHOP, exchange())
        measured.expire()

    assert {200: 10} == counts(measured.read())
    measured.begin_tick(200 * NS)
    measured.expire()
    assert (0, {}) == (measured.series_count, measured.read())
    measured.begin_tick(201 * NS)
    measured.record(SHOP, exchange())
    (series,) = measured.read()[b"shop"].roles[Role.SERVER].values()
    assert (1, 200 * NS) == (series.duration.count, series.start_unix_ns)


def test_a_service_that_was_started_again_is_another_resource() -> None:
    """So its totals begin at 0 beside those of the life before, which stay as they were until they are forgotten."""
    again = SimpleNamespace(resource=b"shop, again", attributes={"service.name": "shop"})
    measured = meter()
    for service in (SHOP, SHOP, again):
        measured.record(service, exchange())

    assert [{200: 2}, {200: 1}] == [counts(measured.read(), resource) for resource in (b"shop", b"shop, again")]


def test_what_finds_no_room_is_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's limit, the overflow series included; those that were there go on, nothing is lost."""
    monkeypatch.setattr(metrics, "MAX_SERIES_OF_SERVICE", 10)
    measured = meter()
    for _ in range(3):
        for status in range(200, 250):
            measured.record(SHOP, exchange(status=status))

    found = counts(measured.read())
    assert 10 == len(found)
    assert dict.fromkeys(range(200, 209), 3) | {OVERFLOW: 3 * 41} == found


def test_many_services_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it each service has its overflow series; beyond the number of services the quietest makes room."""
    monkeypatch.setattr(metrics, "MAX_SERIES", 2)
    monkeypatch.setattr(metrics, "MAX_SERVICES", 2)
    measured = meter()
    for service in (SHOP, SHOP, BANK, BANK):
        for status in (200, 201, 202):
            measured.record(service, exchange(status=status))
    assert [{200: 2, 201: 2, OVERFLOW: 2}, {OVERFLOW: 6}] == [
        counts(measured.read(), name) for name in (b"shop", b"bank")
    ]

    measured.begin_tick(20 * NS)
    measured.record(BANK, exchange())
    measured.expire()
    measured.record(SimpleNamespace(resource=b"post", attributes={}), exchange())
    assert {b"bank", b"post"} == measured.read().keys()
    assert (3, 2) == (measured.evicted, measured.series_count)


def test_attributes_are_bounded_valid_text() -> None:
    """Hosts come from the wire: a strict decoder would refuse the whole export for one wrong byte."""
    measured = meter()
    measured.record(SHOP, client_exchange(host=b"\xff" * 5000))

    (found,) = attributes_of(measured, Role.CLIENT)
    assert len(str(found["server.address"]).encode("utf-8")) <= 512


def test_differences_that_were_not_delivered_are_sent_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost by an outage; what finds no room goes to the overflow series."""
    monkeypatch.setattr(metrics, "MAX_SERIES_OF_SERVICE", 3)
    measured = meter(is_delta=True)
    pending: dict[bytes, ServiceSeries] = {}
    for status in (200, 201, 202, 203):
        measured.record(SHOP, exchange())
        measured.record(SHOP, exchange(status=status))
        assert 0 == merge(pending, measured.read())

    assert {200: 5, 201: 1, OVERFLOW: 2} == counts(pending)
    assert {NS} == {series.start_unix_ns for series in pending[b"shop"].roles[Role.SERVER].values()}


def test_pending_differences_are_bounded_in_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_SERVICES", 1)
    measured = meter(is_delta=True)
    pending: dict[bytes, ServiceSeries] = {}
    lost = 0
    for service in (SHOP, BANK, SHOP):
        measured.record(service, exchange())
        lost += merge(pending, measured.read())

    assert (1, {200: 2}) == (lost, counts(pending))


def test_what_is_remembered_of_an_exchange_is_short() -> None:
    """Heads are read up to 64 KB, and thousands of keys are kept."""
    measured = meter()
    long = b"x" * 60_000
    measured.record(SHOP, client_exchange(host=long, target=b"http://" + long + b"/?" + long))

    (key,) = measured._known
    assert sum(len(part) for part in key if isinstance(part, bytes)) < 2000
