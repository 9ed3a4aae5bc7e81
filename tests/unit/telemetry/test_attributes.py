"""Parts of span attributes, from what stood on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.telemetry.attributes import (
    Target,
    _cached_is_secret,
    address_text,
    error_type,
    first_forwarded,
    redact_query,
    split_authority,
    split_target,
    with_secret_keys,
    without_credentials,
)


@pytest.mark.parametrize(
    ("method", "target", "parts"),
    [
        (b"GET", b"/a/b?c=d?e", Target(b"http", None, b"/a/b", b"c=d?e")),
        (b"GET", b"/a?", Target(b"http", None, b"/a", b"")),
        (b"GET", b"//a", Target(b"http", None, b"//a", None)),
        (b"OPTIONS", b"*", Target(b"http", None, b"*", None)),
        (b"GET", b"http://h:81/a?b", Target(b"http", b"h:81", b"/a", b"b")),
        (b"GET", b"HTTPS://h", Target(b"https", b"h", b"/", None)),
        (b"GET", b"http://h?b", Target(b"http", b"h", b"/", b"b")),
        (b"CONNECT", b"h:443", Target(b"http", b"h:443", None, None)),
        (b"GET", b"no-slash?x", Target(b"http", None, b"no-slash", b"x")),
        (b"GET", b"", Target(b"http", None, b"", None)),
    ],
)
def test_target_has_four_forms(method: bytes, target: bytes, parts: Target):
    """RFC 9112 section 3.2: origin, absolute, authority and asterisk form."""
    assert parts == split_target(method, target)


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        (b"a=1&b=2", b"a=1&b=2"),
        (b"color=blue&sig=abc", b"color=blue&sig=REDACTED"),
        (b"AWSAccessKeyId=A&Signature=B", b"AWSAccessKeyId=REDACTED&Signature=REDACTED"),
        (b"X-Goog-Signature=C", b"X-Goog-Signature=REDACTED"),
        (b"X-Amz-Signature=a&X-Amz-Date=d", b"X-Amz-Signature=REDACTED&X-Amz-Date=d"),
        (b"X-Amz-Credential=b&X-Amz-Security-Token=c", b"X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED"),
        (b"token=1;password=2&x=3", b"token=REDACTED;password=REDACTED&x=3"),
        (b"API-KEY=1&api_key=2&apikey=3", b"API-KEY=REDACTED&api_key=REDACTED&apikey=REDACTED"),
        (b"key=4&keyword=5", b"key=REDACTED&keyword=5"),
        (b"access%5Ftoken=1&%70wd=2", b"access%5Ftoken=REDACTED&%70wd=REDACTED"),
        (b"user[password]=1&user.secret=2", b"user[password]=REDACTED&user.secret=REDACTED"),
        (b"token=a=b", b"token=REDACTED"),
        (b"token", b"token"),
        (b"code=%zz&session=", b"code=REDACTED&session=REDACTED"),
    ],
)  # fmt: skip
def test_values_of_secret_keys_are_redacted(query: bytes, redacted: bytes):
    """HTTP conventions, url.query: the value goes, the key stays."""
    assert redacted == redact_query(query)


def test_keys_of_the_user_are_secrets_too():
    """Besides those that always are, in any of the forms in which those are known."""
    query = b"customer=ann&Invite%2DCode=1&form[customer]=2&token=3&customers=4"

    redacted = redact_query(query, with_secret_keys(["customer", "invite-code"]))

    assert b"customer=REDACTED&Invite%2DCode=REDACTED&form[customer]=REDACTED&token=REDACTED&customers=4" == redacted


@given(st.binary(max_size=50))
def test_redaction_never_shows_what_follows_a_secret_key(value: bytes):
    value = value.replace(b"&", b"").replace(b";", b"")
    assert b"a=1&token=REDACTED&b=2" == redact_query(b"a=1&token=" + value + b"&b=2")


@pytest.mark.parametrize(
    ("authority", "scheme", "server"),
    [
        (b"shop.example", b"http", (b"shop.example", 80)),
        (b"shop.example", b"https", (b"shop.example", 443)),
        (b"shop.example:8080", b"http", (b"shop.example", 8080)),
        (b"shop.example:", b"http", (b"shop.example", 80)),
        (b"[2001:db8::1]:81", b"http", (b"2001:db8::1", 81)),
        (b"[::1]", b"http", (b"::1", 80)),
        (b"user:secret@shop.example:81", b"http", (b"shop.example", 81)),
        (b"", b"http", None),
        (b":80", b"http", None),
        (b"h:port", b"http", None),
        (b"h:99999", b"http", None),
        (b"[::1", b"http", None),
    ],
)
def test_authority_is_host_and_port(authority: bytes, scheme: bytes, server: tuple[bytes, int] | None):
    """RFC 3986 3.2; a missing port is the scheme's own. What is no authority gives nothing."""
    assert server == split_authority(authority, scheme)


def test_credentials_in_an_authority_are_redacted():
    """HTTP conventions, url.full."""
    assert b"REDACTED:REDACTED@h:1" == without_credentials(b"user:secret@h:1")
    assert b"REDACTED@h" == without_credentials(b"user@h")
    assert b"h" == without_credentials(b"h")


def test_addresses_are_text_of_their_family():
    v4 = bytes((10, 0, 0, 1)).ljust(16, b"\0")
    assert b"10.0.0.1" == address_text(2, v4)
    assert b"2001:db8::1" == address_text(10, bytes.fromhex("20010db8000000000000000000000001"))
    assert b"10.0.0.1" == address_text(10, bytes(10) + b"\xff\xff\x0a\x00\x00\x01")


def test_address_that_was_not_seen_is_none():
    assert address_text(1, bytes(16)) is None
    assert address_text(2, bytes(16)) is None
    assert address_text(10, bytes(16)) is None


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"203.0.113.7, 10.0.0.1", b"203.0.113.7"),
        (b" 203.0.113.7:4711", b"203.0.113.7"),
        (b"[2001:db8::1]:4711", b"2001:db8::1"),
        (b"2001:db8::1", b"2001:db8::1"),
        (b", 10.0.0.1", None),
        (b"", None),
    ],
)
def test_first_forwarded_address_is_the_client(header: bytes, client: bytes | None):
    assert client == first_forwarded(header)


@pytest.mark.parametrize(
    ("role", "status", "outcome", "error"),
    [
        (Role.SERVER, 200, Outcome.COMPLETE, None),
        (Role.CLIENT, 302, Outcome.COMPLETE, None),
        (Role.SERVER, 404, Outcome.COMPLETE, None),
        (Role.CLIENT, 404, Outcome.COMPLETE, b"404"),
        (Role.SERVER, 500, Outcome.COMPLETE, b"500"),
        (Role.CLIENT, 503, Outcome.COMPLETE, b"503"),
        (Role.SERVER, 799, Outcome.COMPLETE, b"799"),
        (Role.SERVER, None, Outcome.CLIENT_CLOSED, b"client_closed"),
        (Role.CLIENT, None, Outcome.CLIENT_CLOSED, b"client_closed"),
        (Role.SERVER, 200, Outcome.CLIENT_CLOSED, None),
        (Role.CLIENT, 200, Outcome.CLIENT_CLOSED, None),
        (Role.SERVER, None, Outcome.TIMEOUT, b"timeout"),
        (Role.CLIENT, 200, Outcome.TIMEOUT, b"timeout"),
        (Role.SERVER, None, Outcome.SERVER_CLOSED, b"server_closed"),
        (Role.CLIENT, None, Outcome.RESET, b"reset"),
        (Role.CLIENT, 200, Outcome.SERVER_CLOSED, b"server_closed"),
        (Role.SERVER, 200, Outcome.RESET, b"reset"),
        (Role.CLIENT, 404, Outcome.RESET, b"404"),
        (Role.SERVER, 404, Outcome.RESET, b"reset"),
        (Role.SERVER, None, Outcome.UNKNOWN, None),
    ],
)
def test_error_type_follows_status_and_outcome(role: Role, status: int | None, outcome: Outcome, error: bytes | None):
    """HTTP conventions, Status: 4xx is the client's error alone; an unseen end is no known error."""
    assert error == error_type(role, status, outcome)


@pytest.mark.parametrize("query", [b"a=1&" + b"b" * 100_000, b"&" * 100_000 + b"=", b"[" * 100_000 + b"="])
def test_a_long_name_in_a_query_is_looked_at_once(query: bytes):
    """At its square this would take minutes, and whoever sends a request chooses it."""
    assert query == redact_query(query)


def test_names_of_any_length_in_queries_are_not_kept():
    before = _cached_is_secret.cache_info().currsize

    for number in range(100):
        redact_query(b"%03d%s=1" % (number, b"x" * 8000))

    assert before == _cached_is_secret.cache_info().currsize
