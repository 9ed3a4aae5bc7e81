"""The `ot` member of tracestate: consistent probability sampling, with the SDK's sampler as the oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace._sampling_experimental import composable_traceid_ratio_based, composite_sampler
from opentelemetry.trace import TraceState

from otel_ebpf.telemetry.trace_context import TRACESTATE_LIMIT_BYTES, TRACESTATE_LIMIT_MEMBERS, validate_tracestate
from otel_ebpf.telemetry.trace_state import NEVER, randomness_of, threshold_of, with_threshold

# What four digits of a threshold hold exactly: there the SDK, which rounds not, decides alike.
RATES = st.integers(1, 1 << 16).map(lambda share: share / (1 << 16))
DIGITS = st.integers(0, NEVER - 1).map("{:014x}".format)
PARTS = st.lists(
    DIGITS.map("rv:{}".format)
    | DIGITS.map(lambda digits: "th:" + digits.rstrip("0") + "8")
    | st.just("zz:1")
    | st.just("p:8"),
    max_size=3,
    unique_by=lambda part: part[:2],
)
OTHERS = st.lists(st.sampled_from(["a=1", "b@c=x y", "congo=t61rcWkgMzE", "d=;"]), unique=True, max_size=4)


@given(rate=RATES, trace_id=st.integers(1, 2**128 - 1), parts=PARTS, others=OTHERS, at=st.integers(0, 4))
def test_decision_and_tracestate_are_the_sdks(
    rate: float, trace_id: int, parts: list[str], others: list[str], at: int
) -> None:
    members = list(others)
    if parts:
        members.insert(at, "ot=" + ";".join(part for part in parts if len(part) <= 17))
    tracestate = ",".join(members).encode()
    sdk_state = TraceState([tuple(member.split("=", 1)) for member in members])  # type: ignore[misc]
    sdk = composite_sampler(composable_traceid_ratio_based(rate)).should_sample(
        None, trace_id, "GET", trace_state=sdk_state
    )

    is_kept = randomness_of(trace_id.to_bytes(16, "big"), tracestate) >= threshold_of(rate)

    assert sdk.decision.is_sampled() == is_kept
    if is_kept:
        found = dict(
            member.split("=", 1) for member in with_threshold(tracestate, threshold_of(rate)).decode().split(",")
        )
        assert sdk.trace_state is not None
        assert set(sdk.trace_state["ot"].split(";")) == set(found.pop("ot").split(";"))
        assert dict(member.split("=", 1) for member in others) == found


@pytest.mark.parametrize(
    ("rate", "digits"),
    [
        (1, "0"),
        (0.5, "8"),
        (0.25, "c"),
        (1 / 3, "aaab"),
        (0.1, "e666"),
        (0.01, "fd70a"),
        (0.001, "ffbe77"),
        (2**-56, "f" * 14),
    ],
)
def test_a_threshold_is_short(rate: float, digits: str) -> None:
    """Four digits behind the leading fs, as the specification advises."""
    assert b"ot=th:" + digits.encode() == with_threshold(b"", threshold_of(rate))


@given(st.floats(2**-56, 1))
def test_what_a_threshold_says_is_what_was_asked_for(rate: float) -> None:
    assert (NEVER - threshold_of(rate)) / NEVER == pytest.approx(rate, rel=2**-13, abs=2**-56)


def test_a_rate_of_nothing_keeps_nothing() -> None:
    assert NEVER == threshold_of(0)
    assert randomness_of(b"\xff" * 16, None) < NEVER


@pytest.mark.parametrize(
    ("tracestate", "expected"),
    [
        (b"", b"ot=th:8"),
        (b"a=1,b=2", b"ot=th:8,a=1,b=2"),
        (b"a=1,ot=th:c;rv:00000000000001;x:y,b=2", b"ot=th:8;rv:00000000000001;x:y,a=1,b=2"),
        (b"ot=th:8", b"ot=th:8"),
        (b"foot=th:c", b"ot=th:8,foot=th:c"),
        (b"ot=x:y ;th:c", b"ot=th:8;x:y"),
        (b"ot=x:" + b"y" * 240 + b";rv:00000000000001", b"ot=th:8;rv:00000000000001"),
    ],
)
def test_what_is_changed_stands_first_and_all_else_stays(tracestate: bytes, expected: bytes) -> None:
    """Trace Context 3.3.1.5."""
    assert expected == with_threshold(tracestate, 8 << 52)


@pytest.mark.parametrize(
    ("tracestate", "expected"),
    [
        (None, 0x09FFFFFFFFFFFF),
        (b"ot=rv:00000000000007", 7),
        (b"a=1, ot=th:8;rv:00000000000007", 7),
        (b"ot=xrv:00000000000007", 0x09FFFFFFFFFFFF),
        (b"foot=rv:00000000000007", 0x09FFFFFFFFFFFF),
        (b"ot=rv:007", 0x09FFFFFFFFFFFF),
        (b"ot=rv:0000000000000X", 0x09FFFFFFFFFFFF),
    ],
)
def test_an_explicit_randomness_goes_before_the_trace_ids(tracestate: bytes | None, expected: int) -> None:
    assert expected == randomness_of(bytes(9) + b"\x09" + b"\xff" * 6, tracestate)


@given(
    st.lists(
        st.builds(
            b"%b=%b".__mod__,
            st.tuples(st.from_regex(rb"[a-z]{1,30}", fullmatch=True), st.integers(1, 250).map(b"v".__mul__)),
        ),
        max_size=40,
        unique_by=lambda member: member.partition(b"=")[0],
    ).map(b",".join),
    st.integers(0, NEVER - 1),
)
def test_what_comes_of_a_valid_tracestate_is_valid(tracestate: bytes, threshold: int) -> None:
    """Within 512 bytes and 32 members; long members leave first, from the end, as 3.3.1.5 asks."""
    valid = validate_tracestate(tracestate)
    if valid is None:
        return
    found = with_threshold(valid, threshold)

    assert found == validate_tracestate(found)
    assert found.startswith(b"ot=th:")
    members = found.split(b",")[1:]
    kept = [member for member in valid.split(b",") if not member.startswith(b"ot=")]
    assert [member for member in kept if member in members] == members
    if len(found) < TRACESTATE_LIMIT_BYTES - 300 and len(kept) < TRACESTATE_LIMIT_MEMBERS:
        assert kept == members or any(len(member) > 128 for member in kept)
