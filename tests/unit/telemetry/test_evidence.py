"""Attributes of what was inferred, and of what is only the beginning of what was sent."""

from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome, Role
from otel_ebpf.telemetry.evidence import (
    BY_INFERENCE,
    END_NOT_SEEN,
    MOST_EVIDENCE,
    PARENT_STATES,
    PARENTS,
    PREFIX,
    ROUTE_BY_HEURISTIC,
    SERVER_BY_LOOKUP,
    evidence_of,
)
from otel_ebpf.telemetry.routes import RouteRules, Routes, RouteTable
from otel_ebpf.telemetry.spans import (
    HEADER_LIMIT_BYTES,
    MOST_ATTRIBUTES,
    TRUNCATED,
    URL_LIMIT_BYTES,
    SpanBuilder,
)
from tests.unit.telemetry.examples import PLACES, attributes_of, client_exchange, exchange

README = Path(__file__).parents[3] / "README.md"
ALL = [attribute for _, attribute in BY_INFERENCE] + [
    END_NOT_SEEN,
    ROUTE_BY_HEURISTIC,
    SERVER_BY_LOOKUP,
    *PARENTS,
    *PARENT_STATES,
]


def table(unmatched: str = "heuristic", *patterns: str) -> RouteTable:
    return Routes(RouteRules(tuple(("", pattern) for pattern in patterns), unmatched)).of_service("shop")


def sized(changed: Exchange) -> Exchange:
    """With the bytes that such a request has at least."""
    changed.request_bytes = len(changed.target) + len(changed.user_agent or b"") + len(changed.host or b"")
    return changed


def evidence(changed: Exchange) -> dict[str, bytes | int]:
    return dict(evidence_of(changed, None, table()))


def test_each_inference_has_an_attribute_that_says_from_what():
    assert [flag for flag in Inferred if flag] == [flag for flag, _ in BY_INFERENCE]
    for flag, (name, value) in BY_INFERENCE:
        assert {name: value} == evidence(exchange(inferred=flag))


def test_an_exchange_that_was_read_has_no_evidence():
    assert () == evidence_of(exchange(), None, table())


def test_an_end_that_nobody_saw_says_so():
    assert {f"{PREFIX}response_end": b"not_seen"} == evidence(exchange(outcome=Outcome.UNKNOWN))


@pytest.mark.parametrize(
    ("unmatched", "patterns", "expected"),
    [
        ("heuristic", (), {f"{PREFIX}route": b"heuristic"}),
        ("heuristic", ("/items/{id}",), {}),
        ("wildcard", (), {}),
        ("unset", (), {}),
    ],
)
def test_a_route_is_inferred_unless_the_settings_say_it(
    unmatched: str, patterns: tuple[str, ...], expected: dict[str, bytes]
):
    routes = table(unmatched, *patterns)

    assert expected == dict(evidence_of(exchange(), routes.route_of(exchange()), routes))


@pytest.mark.parametrize(("shows_evidence", "shown"), [(False, None), (True, b"close")])
def test_spans_have_evidence_only_when_asked(shows_evidence: bool, shown: bytes | None):
    builder = SpanBuilder(shows_evidence=shows_evidence)
    changed = exchange(inferred=Inferred.RESPONSE_END_BY_CLOSE)
    span = builder.build(changed, PLACES.of(changed), 0, None, evidence_of(changed, None, table()))

    assert shown == dict(span.attributes).get(f"{PREFIX}response_end")
    assert ((f"{PREFIX}response_end", b"close"),) == span.evidence


def test_no_span_has_more_attributes_than_the_limit_check_assumes():
    busiest = sized(
        exchange(target=b"/" + b"p" * 9000 + b"?" + b"q" * 9000, forwarded_for=b"1.2.3.4", method=b"PURGE", status=500)
    )
    names = {name for name, _ in ALL}

    assert len(names) == MOST_EVIDENCE
    assert len(attributes_of(busiest)) + len({"http.route"} | names) <= MOST_ATTRIBUTES


def test_the_readme_describes_every_attribute_and_no_other():
    rows = [line.split("|")[1:3] for line in README.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]

    described = [(name.strip(" `"), value.strip(" `").encode()) for name, value in rows]
    assert sorted(ALL) == sorted(described)
    assert f"`{TRUNCATED}`" in README.read_text()


@pytest.mark.parametrize(
    ("changed", "truncated"),
    [
        (exchange(target=b"/" + b"p" * (URL_LIMIT_BYTES - 1)), None),
        (exchange(target=b"/" + b"p" * URL_LIMIT_BYTES), b"url.path"),
        (exchange(target=b"/?" + b"q" * URL_LIMIT_BYTES), None),
        (exchange(target=b"/?" + b"q" * (URL_LIMIT_BYTES + 1)), b"url.query"),
        (exchange(target=b"/" + b"p" * 9000 + b"?" + b"q" * 9000), b"url.path,url.query"),
        (exchange(target=b"/p", version=b""), b"url.path"),
        (exchange(target=b"/p?q", version=b""), b"url.query"),
        (exchange(target=b"/" + b"\xff" * (URL_LIMIT_BYTES // 3 + 1)), b"url.path"),
        (exchange(target=b"/?" + b"sid=&" * (URL_LIMIT_BYTES // 12)), b"url.query"),
        (exchange(user_agent=b"u" * HEADER_LIMIT_BYTES), None),
        (exchange(user_agent=b"u" * (HEADER_LIMIT_BYTES + 1)), b"user_agent.original"),
        (exchange(user_agent=b"\xff" * (HEADER_LIMIT_BYTES // 3 + 1)), b"user_agent.original"),
        (client_exchange(target=b"/" + b"p" * 8000), None),
        (client_exchange(target=b"/" + b"p" * URL_LIMIT_BYTES), b"url.full"),
        (client_exchange(target=b"/p", version=b""), b"url.full"),
        (client_exchange(host=b"h" * 9000), b"url.full"),
    ],
)
def test_an_attribute_that_holds_only_the_beginning_is_named(changed: Exchange, truncated: bytes | None):
    """By the bounds of this agent; those of the settings are the user's own."""
    found = attributes_of(sized(changed))

    assert truncated == found.get(TRUNCATED)
    for name in (truncated or b"").split(b","):
        assert not name or len(bytes(found[name.decode()])) <= URL_LIMIT_BYTES


def test_what_is_not_cut_is_as_it_was_sent():
    """The mark and the cut agree at every length near the bound."""
    for extra in range(-4, 5):
        target = b"/" + "é".encode() * ((URL_LIMIT_BYTES + extra) // 2)
        found = attributes_of(sized(exchange(target=target)))

        assert (TRUNCATED in found) == (found["url.path"] != target)


def test_a_version_that_was_not_captured_is_absent():
    assert "network.protocol.version" not in attributes_of(exchange(version=b""))


def test_roles_are_evident_for_clients_too():
    assert {f"{PREFIX}role": b"request"} == evidence(exchange(role=Role.CLIENT, inferred=Inferred.ROLE_BY_REQUEST))
