"""Whether the agent lives, whether it is ready, and why not: for those who keep it running.

In:   a beat at each pass of the pipeline; what it is about to do
Out:  pages: 200 or 503, with the reasons in JSON
Owns: when the pipeline moved last

Live says that a restart would not help: it fails only when the pipeline has stopped moving. Ready says that requests are
being seen. A collector that takes nothing makes neither fail, for the agent keeps what it has: it is told, and no more.
"""

import json
import time
from collections.abc import Callable

from otel_ebpf.export.pages import MakePage, Page

STALLED_NS = 10_000_000_000

STARTING = "starting: the programs are being compiled and loaded"
ENDING = "ending"


class Health:
    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.phase: str | None = STARTING  # None: at work
        self.details: Callable[[], dict[str, object]] = dict
        self.problems: Callable[[], list[str]] = list  # besides those that are known here
        self._clock_ns = clock_ns
        self._beat_ns = clock_ns()

    def beat(self) -> None:
        """The pipeline has moved; called at each pass."""
        self._beat_ns = self._clock_ns()

    def begin_work(self) -> None:
        self.beat()
        self.phase = None

    def pages(self) -> dict[str, MakePage]:
        return {
            "/livez": lambda accept: self._page(self._stalls()),
            "/readyz": lambda accept: self._page(self._reasons()),
        }

    def _stalls(self) -> list[str]:
        still_ns = self._clock_ns() - self._beat_ns
        if self.phase is not None or still_ns < STALLED_NS:
            return []
        return [f"the pipeline has not moved for {still_ns // 1_000_000_000} s"]

    def _reasons(self) -> list[str]:
        return [self.phase] if self.phase is not None else [*self._stalls(), *self.problems()]

    def _page(self, reasons: list[str]) -> Page:
        document = {"ok": not reasons, "why_not": reasons, **self.details()}
        return Page(503 if reasons else 200, "application/json", json.dumps(document).encode() + b"\n")
