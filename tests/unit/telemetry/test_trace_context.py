"""W3C Trace Context level 2, and ids from exchange numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.telemetry.trace_context import IdSource, TraceParent, parse_traceparent, validate_tracestate

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def header(version: str = "00", trace: str = TRACE, span: str = SPAN, flags: str = "01", more: str = "") -> bytes:
    return f"{version}-{trace}-{span}-{flags}{more}".encode()


def test_traceparent_gives_trace_parent_and_flags():
    """Section 3.2.2."""
    assert TraceParent(bytes.fromhex(TRACE), bytes.fromhex(SPAN), 1) == parse_traceparent(header())
    assert 0 == parse_traceparent(header(flags="00")).flags
    assert 3 == parse_traceparent(header(flags="03")).flags


def test_unknown_flags_are_cleared():
    """Section 3.2.2.5.3: a vendor must set unknown flags to zero."""
    assert 1 == parse_traceparent(header(flags="fd")).flags


def test_white_space_around_the_value_is_no_part_of_it():
    """RFC 9110 5.5: a field value has none."""
    assert parse_traceparent(b" \t" + header() + b" ") is not None


def test_later_version_may_append_fields():
    """Section 3.2.4: parse what is known of a higher version, if a dash follows."""
    assert parse_traceparent(header(version="01", more="-anything")) is not None
    assert parse_traceparent(header(version="cc")) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"00",
        header(version="ff"),
        header(version="00", more="-x"),
        header(version="01", more="x"),
        header(version="0"),
        header(trace="0" * 32),
        header(span="0" * 16),
        header(trace=TRACE.upper()),
        header(span=SPAN.upper()),
        header(flags="0A"),
        header(version="0A"),
        header(trace="g" * 32),
        header(span="z" * 16),
        header(flags="0x"),
        header(version="+1"),
        header(trace=TRACE[:-1]),
        header().replace(b"-", b"_"),
        b"00-" + b"\xff" * 32 + b"-" + SPAN.encode() + b"-01",
        b"0" * 55,
    ],
)
def test_what_is_not_exactly_a_traceparent_is_none(wrong: bytes):
    """Sections 3.2.2.3 and 3.2.2.4: an invalid value must be ignored."""
    assert parse_traceparent(wrong) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_without_an_error(raw: bytes):
    found = parse_traceparent(raw)
    assert found is None or raw.strip(b" \t")[3:35] == found.trace_id.hex().encode()


@pytest.mark.parametrize(
    "good", [b"a=1", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", b"fw529a3039@dt=FfFf", b"0a/b*=!"]
)
def test_valid_tracestate_is_passed_on(good: bytes):
    """Section 3.3.1."""
    assert good == validate_tracestate(good)


def test_tracestate_loses_only_white_space_and_empty_members():
    """Section 3.3.1.1: empty members and OWS around members are allowed."""
    assert b"a=1,b=2" == validate_tracestate(b" a=1 , ,\tb=2")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b" , ",
        b"a",
        b"a=",
        b"A=1",
        b"a=1,a=2",
        b"a=\xff",
        b"a=b=c",
        b"a=\x1b[2J",
        b"a=" + b"x" * 257,
        b"a=" + b"x" * 511,
        b",".join(b"k%d=1" % number for number in range(33)),
    ],
)
def test_one_bad_member_drops_the_whole_tracestate(bad: bytes):
    """Section 3.3.1; and no more than 32 members or 512 bytes."""
    assert validate_tracestate(bad) is None


def test_same_seed_gives_the_same_ids():
    """A replayed recording has the ids that it had."""
    assert IdSource(b"seed").ids(7, 1) == IdSource(b"seed").ids(7, 1)
    assert IdSource(b"seed").ids(7, 1) != IdSource(b"other").ids(7, 1)


def test_every_exchange_has_its_own_ids():
    source = IdSource(b"seed")
    made = [source.ids(connection, position) for connection in range(300) for position in range(10)]

    assert 3000 == len({trace for trace, _ in made}) == len({span for _, span in made})
    assert {(16, 8)} == {(len(trace), len(span)) for trace, span in made}


def test_a_connection_may_have_more_exchanges_than_the_kernel_can_number():
    """The kernel's number has 32 bits; what was pipelined is counted on top of it."""
    source = IdSource(b"seed")

    assert source.ids(7, 2**32 + 5) != source.ids(7, 2**32 + 6)


def test_ids_are_never_zero(monkeypatch: pytest.MonkeyPatch):
    """All zero means "none" in W3C and OTLP."""

    class Zeroes:
        def copy(self) -> "Zeroes":
            return self

        def update(self, number: bytes) -> None:
            assert 12 == len(number)

        def digest(self) -> bytes:
            return bytes(24)

    source = IdSource(b"seed")
    monkeypatch.setattr(source, "_keyed", Zeroes())

    assert (bytes(15) + b"\x01", bytes(7) + b"\x01") == source.ids(1, 1)
