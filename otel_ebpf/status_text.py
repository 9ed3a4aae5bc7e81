"""`otel-ebpf status` for people.

In:   the document of the running agent
Out:  lines
Owns: the form; what the numbers are is decided where they are made, in export/accounts.py

The document comes from a process that has no rights and reads foreign bytes: it is taken for text, and nothing else.
"""

import json
from collections.abc import Iterator
from typing import Any


def status_lines(document: bytes) -> list[str]:
    """Raises ValueError when this is no document of an agent."""
    try:
        status = json.loads(document)
        lines = [*_host(status), *(line for service in status["services"] for line in _service(service))]
        if status["services_left_out"]:
            lines.append(f"and {int(status['services_left_out'])} services more")
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ValueError) as error:
        raise ValueError(f"unreadable: {error!r}") from error
    return ["".join(char if char.isprintable() else "?" for char in line) for line in lines]


def _host(status: dict[str, Any]) -> Iterator[str]:
    ring, collector = status["ring"], status["collector"]
    yield f"otel-ebpf {status['version']}, hooks: {status['hooks'] or 'none attached, nothing is watched'}"
    yield f"  all       {_requests(status['host'])}"
    yield from _losses(status["host"])
    percent = 100 * ring["used_bytes"] / ring["size_bytes"]
    yield f"  ring      {percent:.1f} % of {ring['size_bytes'] >> 10} KiB in use, {ring['records']} records read"
    if ring["process_events_lost"]:
        yield f"            {ring['process_events_lost']} process events lost: every process was looked at again"
    sampler = status["sampler"]
    if sampler is not None:
        early = f", {sampler['left_early']} could not: too many do" if sampler["left_early"] else ""
        yield f"  sampler   {sampler['waiting']} requests wait to hear of their traces{early}"
    if collector is None:
        yield "  collector none"
    else:
        yield f"  collector {collector['endpoint']}: {collector['state']}"
        names = ("exported", "rejected", "dropped")
        counts = ", ".join(f"{collector[name]} {name}" for name in names if collector[name] or name == "exported")
        counts += f", {collector['waiting']} waiting ({collector['waiting_bytes'] >> 10} KiB)"
        yield f"            {counts}" + (f", {collector['on_disk']} on disk" if collector["on_disk"] else "")
    metrics = status["metrics"]
    if metrics is not None:
        yield f"  metrics   {metrics['endpoint']}: {metrics['state']}"
        rejected = f", {metrics['rejected']} rejected" if metrics["rejected"] else ""
        yield f"            {metrics['exported']} data points exported{rejected}"


def _service(service: dict[str, Any]) -> Iterator[str]:
    yield ""
    count = service["processes"]
    yield f"{service['name']}, {count} process{'' if count == 1 else 'es'}"
    yield f"  requests  {_requests(service)}"
    yield from _losses(service)
    for number, what in enumerate(service["not_visible"]):
        yield f"  {'' if number else 'not seen':10}{what}"


def _requests(numbers: dict[str, Any]) -> str:
    captured = numbers["captured"]
    parts = [f"{numbers['began']} began", f"{numbers['spans']} spans"]
    if numbers["open"]:
        parts.append(f"{numbers['open']} open")
    if captured is not None:
        parts.append(_percent(captured))
    return ", ".join(parts)


def _percent(captured: float) -> str:
    """Not rounded up to all: 100 % says that nothing is missing."""
    return "100 % captured" if captured >= 1 else f"{int(captured * 10_000) / 100:.2f} % captured"


def _losses(numbers: dict[str, Any]) -> Iterator[str]:
    for number, (reason, count) in enumerate(numbers["losses"].items()):
        yield f"  {'' if number else 'no span':10}{count} {reason}"
