"""Which exchanges are among the slowest of their kind: a running quantile.

In:   a key, a duration
Out:  whether it is longer than the level that a given share of the latest ones exceeds
Owns: a level for each key, MAX_KEYS of them; the one that was asked for the longest ago leaves first

The level rises by a step with each duration above it, and falls by a fraction of that step with each other one, such that
both balance when `share` of them are above. So it follows a service that becomes slower or faster, and of any n durations it
lets through no more than about share * n and, for each tenfold that the level has to climb, 48 more. Only products of
doubles: a replay on another machine gives the same.
"""

from collections.abc import Hashable
from itertools import islice

MAX_KEYS = 4096
_STEP = 0.05
_FIRST_STEPS = 2.0  # the n-th step is 2 / (n + 2), until it is _STEP


class Slowest:
    def __init__(self, share: float) -> None:
        self._share = share
        self._levels: dict[Hashable, tuple[float, int]] = {}  # and how many it was made of, as far as that matters

    def is_slow(self, key: Hashable, duration_ns: int) -> bool:
        """Whether it is, by those before it; it counts for those behind it."""
        level, count = self._levels.pop(key, (0.0, 0))
        if not count:
            if len(self._levels) >= MAX_KEYS:
                self._levels = dict(islice(self._levels.items(), MAX_KEYS // 2, None))
            self._levels[key] = float(max(1, duration_ns)), 1
            return False
        step = _FIRST_STEPS / (count + 2)
        if step < _STEP:
            step = _STEP
        else:
            count += 1
        is_above = duration_ns > level
        level *= 1 + step * (1 - self._share) if is_above else 1 - step * self._share
        self._levels[key] = level, count
        return is_above
