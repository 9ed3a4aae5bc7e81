"""The standard samplers decide as the SDK's do."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import sampling as sdk
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.telemetry.places import Places, SpanPlace
from otel_ebpf.telemetry.sampling import SamplerRules, make_sampler
from otel_ebpf.telemetry.spans import SpanBuilder
from otel_ebpf.telemetry.trace_context import IdSource
from tests.unit.telemetry.examples import PLACES, build, client_exchange, exchange

ROOTS = {
    "always_on": lambda rate: sdk.ALWAYS_ON,
    "always_off": lambda rate: sdk.ALWAYS_OFF,
    "traceidratio": sdk.TraceIdRatioBased,
}
NAMES = [prefix + name for prefix in ("", "parentbased_") for name in ROOTS]


def sampler(name: str, rate: float | None = None) -> Callable[[Exchange], SpanPlace | None]:
    return make_sampler(SamplerRules(name, rate), PLACES).sample


def traceparent(trace_id: bytes, flags: int) -> bytes:
    return b"00-%b-b7ad6b7169203331-%02x" % (trace_id.hex().encode(), flags)


def sdk_keeps(name: str, rate: float, trace_id: bytes, flags: int | None) -> bool:
    """Without flags: no parent."""
    sampler = ROOTS[name.removeprefix("parentbased_")](rate)
    if name.startswith("parentbased_"):
        sampler = sdk.ParentBased(sampler)
    context, number = None, int.from_bytes(trace_id, "big")
    if flags is not None:
        parent = SpanContext(number, 0xB7AD6B7169203331, is_remote=True, trace_flags=TraceFlags(flags))
        context = set_span_in_context(NonRecordingSpan(parent))
    return sampler.should_sample(context, number, "GET").decision.is_sampled()


RATES = st.sampled_from([0.0, 1.0, 0.5, 0.1, 1e-9, 1 - 1e-9, 2**-64, 2**-53]) | st.floats(0, 1)
IDS = st.binary(min_size=16, max_size=16) | st.binary(min_size=8, max_size=8).map(bytes(8).__add__)


@given(name=st.sampled_from(NAMES), rate=RATES, trace_id=IDS.filter(any), flags=st.integers(0, 3))
def test_with_a_parent_every_decision_is_the_sdks(name: str, rate: float, trace_id: bytes, flags: int) -> None:
    kept = sampler(name, rate)(exchange(traceparent=traceparent(trace_id, flags)))

    assert sdk_keeps(name, rate, trace_id, flags) == (kept is not None)


@given(name=st.sampled_from(NAMES), rate=RATES, position=st.integers(0, 2**32 - 1))
def test_without_a_parent_every_decision_is_the_sdks(name: str, rate: float, position: int) -> None:
    new = exchange(position=position)

    assert sdk_keeps(name, rate, PLACES.of(new).trace_id, None) == (sampler(name, rate)(new) is not None)


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_the_bound_of_a_ratio_is_the_sdks(above: int) -> None:
    trace_id = bytes(8) + (sdk.TraceIdRatioBased.get_bound_for_rate(0.3) + above).to_bytes(8, "big")
    kept = sampler("traceidratio", 0.3)(exchange(traceparent=traceparent(trace_id, 0)))

    assert (above < 0) == (kept is not None)


def test_without_an_argument_a_ratio_is_one() -> None:
    """OpenTelemetry specification, OTEL_TRACES_SAMPLER_ARG."""
    assert sampler("traceidratio")(exchange(traceparent=traceparent(b"\xff" * 16, 0)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("always_on", [True, True, True]),
        ("always_off", [False, False, False]),
        ("parentbased_always_on", [True, False, True]),
        ("parentbased_always_off", [True, False, False]),
    ],
)
def test_the_flag_of_a_traceparent_decides_where_samplers_are_parent_based(name: str, expected: Sequence[bool]) -> None:
    """Sampled, unsampled, and no parent. The header of a call names a local parent, that of a request a remote one."""
    for kind in (exchange, client_exchange):
        headers = (traceparent(b"trace" * 3 + b"1", 1), traceparent(b"trace" * 3 + b"1", 0), None)
        assert expected == [sampler(name)(kind(traceparent=header)) is not None for header in headers]


def test_what_is_kept_belongs_where_it_did() -> None:
    for new in (exchange(), exchange(traceparent=traceparent(b"\1" * 16, 3), tracestate=b"a=1"), client_exchange()):
        for name in set(NAMES) - {"always_off", "parentbased_always_off"}:
            assert PLACES.of(new) == sampler(name)(new)


def test_a_share_of_new_traces_is_kept() -> None:
    """Ids are a keyed hash: their ends are even. Five standard deviations of a binomial distribution."""
    sample = make_sampler(SamplerRules("parentbased_traceidratio", 0.25), Places(IdSource(b"another"))).sample
    kept = sum(sample(exchange(position=number)) is not None for number in range(10_000))

    assert abs(kept - 2500) < 5 * (10_000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("rules", [SamplerRules("jaeger_remote"), SamplerRules("traceidratio", 1.1)])
def test_what_is_no_sampler_is_refused(rules: SamplerRules) -> None:
    with pytest.raises(ValueError, match=r"jaeger_remote|1\.1"):
        make_sampler(rules, PLACES)


def test_a_span_that_is_kept_is_sampled_whatever_its_parent_was() -> None:
    """always_on: the sampled flag is what was decided here; the random flag is the trace's."""
    spans = [build(SpanBuilder(), exchange(traceparent=traceparent(b"\1" * 16, flags))) for flags in range(4)]

    assert [0x301, 0x301, 0x303, 0x303] == [span.flags for span in spans]
