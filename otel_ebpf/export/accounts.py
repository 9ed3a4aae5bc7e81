"""The accounts in words: at the end for the host and for each service, and at any time for `otel-ebpf status`.

In:   the pipeline and the sender's counts
Out:  lines; one JSON document
Owns: the names of the numbers

The kernel's counts are up to a second old while the agent runs; at the end they are the last ones, and all adds up.
"""

import json
from typing import TYPE_CHECKING

from otel_ebpf import __version__
from otel_ebpf.errors import printable
from otel_ebpf.exchanges.ledger import (
    CONNECTIONS_FULL,
    ENDED,
    NOT_SAMPLED,
    RING_FULL,
    UNKNOWN_SERVICE,
    Account,
    kernel_counts,
)
from otel_ebpf.export.not_visible import not_visible
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.sender import SendCounts, Sender
from otel_ebpf.export.services import Ended
from otel_ebpf.records.kinds import Counter
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.outcome import OutcomeSampler

if TYPE_CHECKING:
    from otel_ebpf.export.metrics_sender import MetricsSender

MAX_LINES = 50
MAX_SERVICES = 500  # in the document: 300 KB at most
_NOT_CAPTURED_ON_PURPOSE = (NOT_SAMPLED, "the agent's own")


def host_line(pipeline: Pipeline, counts: SendCounts | None) -> str:
    """One line that accounts for every request that began, by the kernel's counts of the host."""
    total = pipeline.ledger.total()
    total.kernel = kernel_counts(pipeline.counters.values)
    parts = [f"{total.began} requests began", f"{total.spans} spans", *_of_losses(total.losses)]
    if counts is not None:
        parts.append(f"{counts.exported} exported")
        parts += [f"{count} {_words(name)}" for name, count in counts._asdict().items() if count and name != "exported"]
    return ", ".join(parts)


def service_lines(pipeline: Pipeline) -> list[str]:
    """The same for each service, the greatest losses first; nothing when there is one and it lost nothing."""
    accounts = [(pid, account) for pid, account in pipeline.ledger.accounts.items() if account.began or account.losses]
    if len(accounts) < 2 and not any(account.losses for _, account in accounts):
        return []
    accounts.sort(key=lambda item: (-sum(item[1].losses.values()), -item[1].began))
    lines = [
        ", ".join(
            [f"{_name(pipeline, pid)}: {account.began} began, {account.spans} spans", *_of_losses(account.losses)]
        )
        for pid, account in accounts[:MAX_LINES]
    ]
    return lines + ([f"and {len(accounts) - MAX_LINES} services more"] if len(accounts) > MAX_LINES else [])


def status_document(
    pipeline: Pipeline, ring: RingReader, sender: Sender | None, metrics: "MetricsSender | None" = None
) -> bytes:
    """What `otel-ebpf status` shows; otel_ebpf/status_text.py reads it."""
    still_open = pipeline.open_by_service()
    by_traffic = sorted(pipeline.ledger.accounts.items(), key=lambda item: -item[1].began)
    everything = pipeline.ledger.total()
    document = {
        "version": __version__,
        "hooks": pipeline.hooks.text,
        "host": _numbers(everything, *(sum(column) for column in zip((0, 0), *still_open.values(), strict=True))),
        "ring": {
            "size_bytes": ring.size_bytes,
            "used_bytes": ring.used_bytes,
            "records": pipeline.records,
            "ends_that_did_not_fit": pipeline.counters.values[Counter.END_RING_FULL],
            "process_events_lost": pipeline.counters.values[Counter.PROCESS_EVENTS_LOST],
        },
        "sampler": None if pipeline.outcomes is None else _of_sampler(pipeline.outcomes),
        "collector": None if sender is None else _of_collector(sender),
        "metrics": None if metrics is None else _of_metrics(metrics),
        "services": [
            {
                "name": _name(pipeline, pid),
                "processes": account.processes,
                "not_visible": not_visible(account, pipeline.hidden.get(pid, {})),
            }
            | _numbers(account, *still_open.get(pid, (0, 0)))
            for pid, account in by_traffic[:MAX_SERVICES]
        ],
        "services_left_out": max(0, len(by_traffic) - MAX_SERVICES),
    }
    return json.dumps(document, ensure_ascii=True).encode()


def _numbers(account: Account, open_requests: int, open_pipelined: int) -> dict[str, object]:
    losses = account.losses
    on_purpose = sum(losses.get(reason, 0) for reason in _NOT_CAPTURED_ON_PURPOSE)
    lost = sum(losses.values()) - on_purpose
    known = account.spans + on_purpose
    return {
        "began": account.began_so_far(open_pipelined),
        "spans": account.spans,
        "open": open_requests,
        "losses": losses,
        "captured": known / (known + lost) if known + lost else None,
    }


def _of_sampler(outcomes: OutcomeSampler[Ended]) -> dict[str, int]:
    return {"waiting": len(outcomes.waiting), "left_early": outcomes.left_early}


def _of_collector(sender: Sender) -> dict[str, object]:
    return {
        "endpoint": sender.endpoint_for_people,
        "state": sender.collector_state,
        **sender.counts()._asdict(),
        "waiting_bytes": sender.queue.size_bytes,
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _of_metrics(sender: "MetricsSender") -> dict[str, object]:
    return {
        "endpoint": sender.otlp.endpoint_for_people,
        "state": sender.collector_state,
        "exported": sender.exported,
        "rejected": sender.rejected,
    }


def _of_losses(losses: dict[str, int]) -> list[str]:
    """The kernel's first, the others as they came."""
    order = sorted(losses, key=lambda reason: (reason != RING_FULL, reason != CONNECTIONS_FULL))
    return [f"{losses[reason]} {reason}" for reason in order]


def _name(pipeline: Pipeline, service_pid: int) -> str:
    if service_pid == ENDED:
        return "services that ended before"
    if service_pid == UNKNOWN_SERVICE:
        return "services without an account of their own"
    service = pipeline.services.find(service_pid)
    name = service.name if service else "unknown_service"
    return f"{printable(name)} (pid {service_pid})"
