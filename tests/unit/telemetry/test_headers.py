"""Captured headers: what was named, all its values, no secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.telemetry.attributes import with_secret_keys
from otel_ebpf.telemetry.headers import MAX_VALUES, VALUE_LIMIT_BYTES, HeaderRules, Headers
from otel_ebpf.telemetry.spans import TRUNCATED
from tests.unit.telemetry.examples import attributes_of, client_exchange, exchange

REQUEST = (
    b"Host: shop\r\nContent-Type: text/html\r\nX-Tag: a\r\nx-tag:b, c\r\nX-Folded: one\r\n\ttwo \r\nX-Empty:\r\n\r\n"
)
RESPONSE = b"content-type: application/json\nX-Tag: of the response\n\n"


def shown(block: bytes, *names: str, sanitized: tuple[str, ...] = ()) -> dict[str, tuple[bytes, ...]]:
    found = Headers(HeaderRules(names, (), sanitized)).of(exchange(request_headers=block))
    return {key.removeprefix("http.request.header."): values for key, values in found.attributes}


def test_named_headers_are_on_the_span_of_either_side_and_no_others() -> None:
    """Semantic conventions: http.request.header.<key>, http.response.header.<key>, the name in lower case."""
    for kind in (exchange, client_exchange):
        found = attributes_of(
            kind(request_headers=REQUEST, response_headers=RESPONSE),
            header_rules=HeaderRules(("content-type", "x-none"), ("content-type",)),
        )
        assert {
            "http.request.header.content-type": (b"text/html",),
            "http.response.header.content-type": (b"application/json",),
        } == {key: value for key, value in found.items() if ".header." in key}


def test_nothing_is_captured_unless_it_is_named() -> None:
    assert [] == [key for key in attributes_of(exchange(request_headers=REQUEST)) if ".header." in key]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-tag", (b"a", b"b, c")),  # one for each line
        ("x-folded", (b"one two",)),
        ("x-empty", (b"",)),
        ("x-fold", None),
        ("host", (b"shop",)),
    ],
)
def test_a_value_is_what_stands_behind_the_name(name: str, expected: tuple[bytes, ...] | None) -> None:
    assert expected == shown(REQUEST, name).get(name)


SECRET_NAMES = [
    "authorization",
    "proxy-authorization",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "cookie2",
    "x-api-key",
    "x-apikey",
    "apikey",
    "x-auth-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-vault-token",
    "private-token",
    "x-goog-iam-authorization-token",
    "x-session-id",
    "x-password",
    "x-client-secret",
    "x-hub-signature-256",
    "x-shopify-hmac-sha256",
    "x-functions-key",
    "x-auth",
    "x-jwt",
    "ocp-apim-subscription-key",
    "x-ms-client-credential",
]
PLAIN_NAMES = [
    "accept",
    "content-type",
    "x-request-id",
    "x-author",
    "x-authority",
    "idempotency-key",
    "user-agent",
    "referer",
    "location",
    "etag",
    "x-passenger",
    "x-forwarded-for",
    "sec-websocket-key",
    "x-side",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_credentials_are_never_in_clear_even_when_they_are_named(name: str) -> None:
    block = b"%b: hunter2\r\n%b:\r\n\r\n" % (name.upper().encode(), name.encode())

    assert {name: (b"REDACTED", b"REDACTED")} == shown(block, name)
    assert frozenset() == HeaderRules((name,), (name,)).shown


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_other_names_are_shown(name: str) -> None:
    assert {name: (b"value",)} == shown(b"%b: value\r\n\r\n" % name.encode(), name)


def test_what_the_user_wants_sanitized_is() -> None:
    block = b"X-Customer: Ann\r\nX-Internal-Id: 7\r\nX-Inter: 8\r\n\r\n"
    names = ("x-customer", "x-internal-id", "x-inter")

    found = shown(block, *names, sanitized=("x-customer", "x-internal-*"))

    assert {"x-customer": (b"REDACTED",), "x-internal-id": (b"REDACTED",), "x-inter": (b"8",)} == found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"https://shop/a?b=1&token=hunter2", b"https://shop/a?b=1&token=REDACTED"),
        (b"https://me:hunter2@shop/a", b"https://REDACTED:REDACTED@shop/a"),
        (b"https://hunter2@shop/a", b"https://REDACTED@shop/a"),
        (b"/cb?code=hunter2", b"/cb?code=REDACTED"),
        (b"https://app/#access_token=hunter2&x=1", b"https://app/#access_token=REDACTED&x=1"),
        (b"https://app/?a=1#id_token=hunter2", b"https://app/?a=1#id_token=REDACTED"),
        (b"https://shop/me:you@home", b"https://shop/me:you@home"),
        (b"key=value", b"key=value"),
    ],
)
def test_urls_in_values_lose_their_secrets(value: bytes, expected: bytes) -> None:
    """As url.full and url.query do."""
    assert {"location": (expected,)} == shown(b"Location: " + value + b"\r\n\r\n", "location")


def test_secret_keys_of_the_user_hold_everywhere() -> None:
    found = attributes_of(
        exchange(target=b"/a?customer=ann&b=1", request_headers=b"Referer: /x?customer=ann#customer=ann\r\n\r\n"),
        header_rules=HeaderRules(("referer",)),
        secret_keys=with_secret_keys(["customer"]),
    )
    call = attributes_of(client_exchange(target=b"/a?customer=ann"), secret_keys=with_secret_keys(["customer"]))

    assert b"customer=REDACTED&b=1" == found["url.query"]
    assert (b"/x?customer=REDACTED#customer=REDACTED",) == found["http.request.header.referer"]
    assert call["url.full"].endswith(b"/a?customer=REDACTED")


def test_what_is_long_is_cut_and_says_so() -> None:
    long = b"X-Long: " + b"v" * 2 * VALUE_LIMIT_BYTES + b"\r\n"
    many = b"X-Many: v\r\n" * (MAX_VALUES + 1)

    found = attributes_of(
        exchange(request_headers=long + many + b"\r\n"), header_rules=HeaderRules(("x-long", "x-many", "x-none"))
    )

    assert (b"v" * VALUE_LIMIT_BYTES,) == found["http.request.header.x-long"]
    assert (b"v",) * MAX_VALUES == found["http.request.header.x-many"]
    assert b"http.request.header.x-long,http.request.header.x-many" == found[TRUNCATED]


def test_limits_of_attributes_hold_for_headers() -> None:
    """OpenTelemetry specification: the length limit is for each text of an array."""
    rules = HeaderRules(("x-tag", "host"))
    few = attributes_of(exchange(request_headers=REQUEST), header_rules=rules, count_limit=3)
    short = attributes_of(exchange(request_headers=REQUEST), header_rules=rules, value_length_limit=1)

    assert 3 == len(few)
    assert ((b"a", b"b"), (b"s",)) == (short["http.request.header.x-tag"], short["http.request.header.host"])


NAMES = st.sampled_from([b"Cookie", b"x-tag", b"X-TAG ", b"Referer", b"", b"X-Long"])
LINES = st.builds(
    b"%b%b%b%b".__mod__,
    st.tuples(
        NAMES, st.sampled_from([b":", b": ", b""]), st.binary(max_size=30), st.sampled_from([b"\r\n", b"\n", b"\r\n "])
    ),
)


@given(st.lists(LINES, max_size=8).map(b"".join))
def test_any_bytes_give_text_and_no_value_of_a_secret(block: bytes) -> None:
    """All text is UTF-8, whatever was sent."""
    for name, values in shown(block, "cookie", "x-tag", "referer").items():
        assert all(value.decode("utf-8") is not None and b"\n" not in value for value in values)
        if name == "cookie":
            assert {b"REDACTED"} == set(values)
