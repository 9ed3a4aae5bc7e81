"""What spans depend on besides that which comes from the kernel and the probe: fixed when the agent starts.

In:   settings, a seed, the host; or the START entry of a recording
Out:  what makes spans and resources; or the payload of a START entry
Owns: nothing
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from otel_ebpf.exchanges.kinship import Parents
from otel_ebpf.export.services import Ended, Services
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.telemetry.attributes import with_secret_keys
from otel_ebpf.telemetry.headers import HeaderRules
from otel_ebpf.telemetry.outcome import OutcomeSampler
from otel_ebpf.telemetry.places import Places
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.routes import RouteRules
from otel_ebpf.telemetry.sampling import OUTCOME, Sampler, SamplerRules, make_sampler
from otel_ebpf.telemetry.spans import SpanBuilder
from otel_ebpf.telemetry.trace_context import IdSource

_MAX_SEED_BYTES = 64


@dataclass(frozen=True, slots=True)
class Facts:
    seed: bytes  # of all ids
    version: str  # of the agent
    host: HostFacts
    value_length_limit: int | None
    count_limit: int
    known_methods: tuple[str, ...]
    routes: RouteRules = field(default_factory=RouteRules)
    sampler: SamplerRules = field(default_factory=SamplerRules)
    shows_evidence: bool = False
    headers: HeaderRules = field(default_factory=HeaderRules)
    more_secret_keys: tuple[str, ...] = ()  # of queries
    parents: str = Parents.NORMAL.value

    def builder(self) -> SpanBuilder:
        methods = frozenset(method.encode() for method in self.known_methods)
        return SpanBuilder(
            self.value_length_limit, self.count_limit, methods, self.shows_evidence, self.headers, self.secret_keys
        )

    @property
    def secret_keys(self) -> frozenset[bytes]:
        return with_secret_keys(self.more_secret_keys)

    def places(self) -> Places:
        return Places(IdSource(self.seed))

    def sample(self) -> Sampler:
        return make_sampler(self.sampler, self.places())

    def outcomes(self) -> OutcomeSampler[Ended] | None:
        """Decides on what `sample` has kept."""
        return OutcomeSampler(self.sampler.rate, self.sampler.slowest) if self.sampler.name == OUTCOME else None

    def services(self) -> Services:
        return Services(self.host, self.version, self.routes)

    def encode(self) -> bytes:
        return json.dumps(asdict(self) | {"seed": self.seed.hex()}, separators=(",", ":")).encode()


def decode_facts(payload: bytes) -> Facts:
    """Raises DecodeError for anything that `encode` would not write."""
    try:
        found: dict[str, Any] = json.loads(payload)
        found["seed"] = bytes.fromhex(found["seed"])
        found["host"] = HostFacts(**found["host"])
        found["known_methods"] = tuple(found["known_methods"])
        found["more_secret_keys"] = tuple(found.get("more_secret_keys", ()))
        if "routes" in found:
            found["routes"] = _decode_routes(found["routes"])
        if "sampler" in found:
            found["sampler"] = SamplerRules(**found["sampler"])
        if "headers" in found:
            found["headers"] = _decode_headers(found["headers"])
        facts = Facts(**found)
        Parents(facts.parents)
        facts.sample(), facts.outcomes(), facts.builder()  # which raise for values that cannot be
        texts = (facts.version, *asdict(facts.host).values(), *facts.known_methods)
        are_texts = bool("".join(texts).encode("utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DecodeError(f"START does not tell what is needed: {error!r}") from None
    limits = (facts.count_limit, facts.value_length_limit or 0)
    are_limits = all(type(limit) is int and limit >= 0 for limit in limits)
    if not (are_texts and are_limits and type(facts.shows_evidence) is bool and 0 < len(facts.seed) <= _MAX_SEED_BYTES):
        raise DecodeError("START has a value of the wrong type")
    return facts


def _decode_headers(found: dict[str, Any]) -> HeaderRules:
    return HeaderRules(**{direction: tuple(str(name) for name in names) for direction, names in found.items()})


def _decode_routes(found: dict[str, Any]) -> RouteRules:
    patterns = tuple((str(service), str(pattern)) for service, pattern in found["patterns"])
    return RouteRules(patterns, str(found["unmatched"]))
