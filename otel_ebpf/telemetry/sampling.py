"""Which exchanges give a span, by their trace alone: the standard samplers of OTEL_TRACES_SAMPLER.

In:   exchanges
Out:  where the span of each belongs, or None where there is to be none; nothing else is made before that is decided
Owns: nothing

What is linked shares a trace id and its flags, so it is kept or not as its root is. The decisions are those of the SDK's
samplers of the same names, and so is what they leave alone: the tracestate. What looks at how an exchange ended is in
outcome.py; here it keeps all.
"""

from collections.abc import Callable
from dataclasses import dataclass

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.telemetry.places import Places, SpanPlace
from otel_ebpf.telemetry.trace_context import FLAG_SAMPLED

OUTCOME = "otel_ebpf_outcome"
_PARENT_BASED = "parentbased_"


@dataclass(frozen=True, slots=True)
class Sampler:
    places: Places
    sample: Callable[[Exchange], SpanPlace | None]


@dataclass(frozen=True, slots=True)
class SamplerRules:
    name: str = "parentbased_always_on"
    rate: float | None = None  # of traceidratio; of what OUTCOME need not keep
    slowest: float | None = None  # the share of each route that OUTCOME keeps for being slow


def make_sampler(rules: SamplerRules, places: Places) -> Sampler:
    """Raises ValueError for a name or a rate that is none."""
    if rules.name == OUTCOME:
        return Sampler(places, places.of)
    rate = 1.0 if rules.rate is None else rules.rate
    if not 0 <= rate <= 1:
        raise ValueError(f"{rate} is no probability")
    name = rules.name.removeprefix(_PARENT_BASED)
    if name not in ("always_on", "always_off", "traceidratio"):
        raise ValueError(f"no sampler is named {rules.name}")
    bound = round((rate if name == "traceidratio" else name == "always_on") * (1 << 64))

    def is_kept(trace_id: bytes) -> bool:
        return int.from_bytes(trace_id[8:], "big") < bound

    if name != rules.name:
        return _parent_based(places if bound >> 64 else places.with_roots(is_kept), keeps_roots=bound > 0)
    if bound >> 64:
        return Sampler(places, places.of)

    def sample(exchange: Exchange) -> SpanPlace | None:
        place = places.of(exchange)
        return place if is_kept(place.trace_id) else None

    return Sampler(places, sample if bound else lambda exchange: None)


def _parent_based(places: Places, *, keeps_roots: bool) -> Sampler:
    """With the defaults of ParentBased: a parent's flag decides, be the parent remote or local. A root is decided by its
    trace id; its flag says how."""

    def sample(exchange: Exchange) -> SpanPlace | None:
        if not keeps_roots and exchange.traceparent is None and exchange.kin is None:
            return None
        place = places.of(exchange)
        return place if place.flags & FLAG_SAMPLED else None

    return Sampler(places, sample)
