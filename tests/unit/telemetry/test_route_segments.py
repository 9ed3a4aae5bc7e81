"""What looks like data, and what like a name: a table from the paths of real APIs."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_ebpf.telemetry.route_segments import ANY, DATE, EMAIL, ID, LONGEST_NAME_BYTES, REST, generic

NAMES = b"""
users Users _next static .env .well-known favicon.ico robots.txt openapi.json main.css index2.html wp-login.php
v1 v2 v1.2 v1beta1 v3alpha V2 oauth2 s3 ec2 sha256 base64 i18n k8s 2fa p95 h264 mp3 x509 utf8 ipv4 http2
getUserById GetCustomerOrderHistoryByRegion forgot-password sign_in projects:batchGet @types en-US de twirp.example.Haberdasher
MakeHat my-first-post healthz actuator swagger-ui ABOUT
""".split()

DATA = b"""
0 42 -1 1.5 007 18446744073709551615 10.0.0.1 1,2,3 52.5163,13.3777
0190163d-8694-739b-aea5-966c26f8ad91 0190163D-8694-739B-AEA5-966C26F8AD91 507f1f77bcf86cd799439011
da39a3ee5e6b4b0d3255bfef95601890afd80709 4bf92f3577b34da6a3ce929d0e0e4736 1a2b3c4 0xdeadbeef01
01ARZ3NDEKTSV4RRFFQ69G5FAV dQw4w9WgXcQ B07XJ8C8F5 ORD0001234 PROJ-123 A1 x1y2z3w4 Tk9UIEEgU0VDUkVU1
eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SflKxwRJSMeKKF2QT4 aHR0cHM6Ly9leGFtcGxlLmNvbQ
caf%C3%A9 two%20words 20241121 2024_11_21 12:30 +4917012345
""".split()

PARTS = {
    "invoice-17.pdf": "invoice-{id}.pdf",
    "17.json": "{id}.json",
    "app.3f2a9c1b.js": "app.{id}.js",
    "user-123": "user-{id}",
    "user_0190163d86947": "user_{id}",
    "ch_1IabcD2eZvKYlo2C": "ch_{id}",
    "cus_NffrFeUfNV2Hib": "cus_{id}",
    "i-0abcd1234ef567890": "i-{id}",
    "123:cancel": "{id}:cancel",
    "us-east-1": "us-east-{id}",
    "top-10-movies": "top-{id}-movies",
    "IMG_20240101.jpg": "IMG_{id}.jpg",
    "cart;jsessionid=AF12": "cart",
    "17;v=2": "{id}",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays(name: bytes):
    assert name == generic(name)


@pytest.mark.parametrize("data", DATA)
def test_data_is_an_id(data: bytes):
    assert ID == generic(data)


@pytest.mark.parametrize("part", PARTS)
def test_data_in_a_name_is_replaced_alone(part: str):
    assert PARTS[part].encode() == generic(part.encode())


@pytest.mark.parametrize("date", ["2024-11-21", "2024-11", "1999-01-31T23:59:59Z", "2024-11-21T10:00:00.123+01:00"])
def test_a_date_is_a_date(date: str):
    assert DATE == generic(date.encode())


@pytest.mark.parametrize("address", ["a@b.example", "first.last+tag@mail.example.org", "user%40example.org"])
def test_an_e_mail_address_is_not_shown(address: str):
    assert EMAIL == generic(address.encode())


def test_what_is_longer_than_any_name_is_data():
    assert ID == generic(b"x" * (LONGEST_NAME_BYTES + 1))
    assert ID == generic(b"a-" * LONGEST_NAME_BYTES)


SEGMENTS = (
    st.binary(max_size=60)
    | st.text("abcXYZ019-_.:;,@%{}*=", max_size=50).map(str.encode)
    | st.lists(st.sampled_from([*NAMES, *DATA, *map(str.encode, PARTS), b"-", b".", b"{id}", b"*"]), max_size=4).map(
        b"".join
    )
)


@example(b"000AAAAAAAAAAAAAAG$0")
@example(b"aaaaaaaaaaaa1b2c3d4-AbCdEfGh1iJkLmNo2pQrS")
@given(SEGMENTS)
def test_what_stands_for_a_segment_stands_for_itself(segment: bytes):
    """So a route is the route of itself."""
    assert generic(segment) == generic(generic(segment))


@given(SEGMENTS)
def test_what_stays_is_short_and_readable(segment: bytes):
    """Of what anybody may send, only what could be a name gets into a route."""
    found = generic(segment)

    assert len(found) <= LONGEST_NAME_BYTES
    assert found.isascii()
    assert not found or found.decode().isprintable()
    assert b"%" not in found
    assert b"/" not in found


def test_placeholders_are_themselves():
    for placeholder in (ID, DATE, EMAIL, ANY, REST):
        assert placeholder == generic(placeholder)
