"""What a lookup before the call says on the span."""

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Inferred
from otel_ebpf.telemetry.evidence import SERVER_BY_LOOKUP, evidence_of
from otel_ebpf.telemetry.lookups import SpanEvent, asked_name, lookup_event
from otel_ebpf.telemetry.metrics import request_attributes
from otel_ebpf.telemetry.routes import RouteRules, Routes
from otel_ebpf.telemetry.spans import SpanBuilder
from tests.unit.telemetry.examples import AF_INET6, PLACES, attributes_of, client_exchange, lookup

OFFSET_NS = 5_000_000_000


def waited(**changes: object) -> Exchange:
    return client_exchange(**{"position": 0, "lookup": lookup(), **changes})


def named(**changes: object) -> Exchange:
    made = waited(**changes)
    made.asked_name = asked_name(made)
    return made


def test_the_event_says_what_was_asked_for_how_long_and_the_answers():
    event = lookup_event(waited(), OFFSET_NS)

    assert event == SpanEvent(
        OFFSET_NS + 100,
        b"dns.lookup",
        (
            ("dns.question.name", b"shop.example"),
            ("dns.answers", (b"10.0.0.9", b"2001:db8::9")),
            ("dns.lookup.duration", 5e-07),
        ),
    )


def test_later_exchanges_of_the_connection_have_not_waited():
    assert None is lookup_event(waited(position=1), OFFSET_NS)
    assert None is lookup_event(client_exchange(position=0), OFFSET_NS)
    assert None is lookup_event(waited(request_start_ns=600 + 5_000_000_000), OFFSET_NS)


def test_a_span_has_the_event():
    span = SpanBuilder().build(waited(), PLACES.of(waited()), OFFSET_NS)

    assert (lookup_event(waited(), OFFSET_NS),) == span.events


def test_the_limit_of_values_holds_for_events():
    span = SpanBuilder(value_length_limit=4).build(waited(), PLACES.of(waited()), OFFSET_NS)

    assert ("dns.question.name", b"shop") in span.events[0].attributes
    assert ("dns.answers", (b"10.0", b"2001")) in span.events[0].attributes


@pytest.mark.parametrize("host", [b"10.0.0.9", b"10.0.0.9:8080", None])
def test_a_call_to_a_bare_address_has_the_name_that_was_asked_for(host: bytes | None):
    """The URL stays as it was sent."""
    call = named(host=host)
    attributes = attributes_of(call)

    assert b"shop.example" == attributes["server.address"]
    assert attributes["url.full"].startswith(b"http://10.0.0.9")
    assert ("server.address", "shop.example") in request_attributes(frozenset(), call)
    assert (SERVER_BY_LOOKUP,) == evidence_of(call, None, Routes(RouteRules((), "unset")).of_service("shop"))


def test_an_ipv6_address_may_be_written_in_several_ways():
    address = bytes.fromhex("20010db8000000000000000000000009")

    assert b"shop.example" == asked_name(waited(host=b"[2001:DB8:0::9]:8080", family=AF_INET6, remote_address=address))


@pytest.mark.parametrize(
    "changes",
    [
        {"host": b"www.example"},  # the call says whom it is for
        {"host": b"10.0.0.8"},  # not the address that was connected to
        {"host": b"10.0.0.9", "target": b"http://10.0.0.9/"},  # to a proxy
        {"host": b"10.0.0.9", "lookup": lookup(is_same_thread=False)},
        {"host": b"10.0.0.9", "lookup": lookup(is_only_name=False)},
        {"host": b"10.0.0.9", "lookup": None},
    ],
)
def test_otherwise_the_server_is_what_the_call_says(changes: dict[str, object]):
    assert None is asked_name(waited(**changes))


def test_calls_to_one_address_by_two_names_are_two_servers():
    builder = SpanBuilder()
    calls = [named(host=b"10.0.0.9", lookup=lookup(name=name)) for name in (b"a.example", b"b.example")]
    spans = [builder.build(call, PLACES.of(call), 0) for call in calls]

    assert [b"a.example", b"b.example"] == [dict(span.series.attributes)["server.address"] for span in spans]


def test_evidence_tells_a_lookup_of_another_thread():
    call = waited(inferred=Inferred.LOOKUP_BY_ADDRESS)
    found = dict(evidence_of(call, None, Routes(RouteRules((), "unset")).of_service("shop")))

    assert {"otel_ebpf.evidence.dns_lookup": b"address_and_host"} == found
