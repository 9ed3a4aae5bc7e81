"""Which exchanges give a span, by their trace alone: the standard samplers of OTEL_TRACES_SAMPLER.

In:   exchanges
Out:  where the span of each belongs, or None where there is to be none; nothing else is made before that is decided
Owns: nothing

The decisions are those of the SDK's samplers of the same names, and so is what they leave alone: the tracestate. What looks
at how an exchange ended is in outcome.py; here it keeps all.
"""

from collections.abc import Callable
from dataclasses import dataclass

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.telemetry.places import Places, SpanPlace
from otel_ebpf.telemetry.trace_context import FLAG_SAMPLED, parse_traceparent

OUTCOME = "otel_ebpf_outcome"
_PARENT_BASED = "parentbased_"

Sampler = Callable[[Exchange], SpanPlace | None]


@dataclass(frozen=True, slots=True)
class SamplerRules:
    name: str = "parentbased_always_on"
    rate: float | None = None  # of traceidratio; of what OUTCOME need not keep
    slowest: float | None = None  # the share of each route that OUTCOME keeps for being slow


def make_sampler(rules: SamplerRules, places: Places) -> Sampler:
    """Raises ValueError for a name or a rate that is none."""
    if rules.name == OUTCOME:
        return places.of
    rate = 1.0 if rules.rate is None else rules.rate
    if not 0 <= rate <= 1:
        raise ValueError(f"{rate} is no probability")
    name = rules.name.removeprefix(_PARENT_BASED)
    if name not in ("always_on", "always_off", "traceidratio"):
        raise ValueError(f"no sampler is named {rules.name}")
    is_parent_based = name != rules.name
    place_of = places.root if is_parent_based else places.of
    by_name: dict[str, Sampler] = {"always_on": place_of, "always_off": lambda exchange: None}
    sample = by_name[name] if name in by_name else _ratio(rate, place_of)
    return _parent_based(sample, places) if is_parent_based else sample


def _ratio(rate: float, place_of: Callable[[Exchange], SpanPlace]) -> Sampler:
    bound = round(rate * (1 << 64))

    def sample(exchange: Exchange) -> SpanPlace | None:
        place = place_of(exchange)
        return place if int.from_bytes(place.trace_id[8:], "big") < bound else None

    return sample


def _parent_based(root: Sampler, places: Places) -> Sampler:
    """With the defaults of ParentBased: a parent's flag decides, be the parent remote or local."""

    def sample(exchange: Exchange) -> SpanPlace | None:
        parent = None if exchange.traceparent is None else parse_traceparent(exchange.traceparent)
        if parent is None:
            return root(exchange)
        return places.child(exchange, parent) if parent.flags & FLAG_SAMPLED else None

    return sample
