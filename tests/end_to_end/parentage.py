"""Whose child is each call of a service that calls others, and whose should it be: both by the ids in their paths.

In:   spans; what each call was caused by
Out:  how many are right, unknown and wrong
Owns: nothing
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.end_to_end.sink import CLIENT, SERVER, Sink, Span
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.calling import CallingService

NOT_THERE = "?"
WARM_UP = 20  # what is loaded with the first requests has been looked at then


def parents_of(spans: Iterable[Span]) -> dict[str, str | None]:
    """Of each client's span, by their targets; "?" for one that is not there."""
    spans = list(spans)
    servers = {span.span_id: target_of(span) for span in spans if span.kind == SERVER}
    return {
        target_of(span): servers.get(span.parent_span_id, NOT_THERE) if span.parent_span_id else None
        for span in spans
        if span.kind == CLIENT
    }


@dataclass
class Verdict:
    right: int = 0
    unknown: list[str] = field(default_factory=list)  # paths
    wrong: dict[str, str] = field(default_factory=dict)  # and what each was said to belong to
    missing: list[str] = field(default_factory=list)  # no span

    @property
    def is_all_right(self) -> bool:
        return not (self.unknown or self.wrong or self.missing)


def judge(found: Mapping[str, str | None], caused: Mapping[str, str], noise: Mapping[str, str | None]) -> Verdict:
    verdict = Verdict(wrong={path: parent for path, parent in noise.items() if parent is not None})
    for path, parent in caused.items():
        if path not in found:
            verdict.missing.append(path)
            continue
        said = found[path]
        if said == parent:
            verdict.right += 1
        elif said is None:
            verdict.unknown.append(path)
        else:
            verdict.wrong[path] = said
    return verdict


def asked_and_judged(service: CallingService, sink: Sink, prefix: str, requests: int, at_once: int) -> Verdict:
    """So many requests of each kind."""
    warm = service.ask(f"warm-{prefix}", WARM_UP, at_once)
    # What the first ones call by TLS may begin before their library is attached to.
    sink.wait_for(len(warm) + WARM_UP * len(service.kinds), belongs_to(f"warm-{prefix}"), seconds=5)
    caused = service.ask(f"hot-{prefix}", requests, at_once)
    spans = sink.wait_for(len(caused) + requests * len(service.kinds), belongs_to(f"hot-{prefix}"))
    noise = sink.wait_for(1, belongs_to("/noise/", CLIENT))
    return judge(parents_of(spans), caused, parents_of(noise))
