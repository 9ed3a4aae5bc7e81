"""Histograms: many whole numbers in, few kept. Nanoseconds or bytes, so sums are exact.

In:   values >= 0, each perhaps with the span that it was measured with
Out:  counts in buckets, sum, least and greatest, an exemplar here and there
Owns: those of one series and one instrument

Both forms are the metrics SDK's, which is the oracle of the tests: upper bounds belong to their bucket, an exponential
histogram has the finest scale of which 160 buckets are enough.
"""

from bisect import bisect_left
from collections.abc import Callable
from math import floor, frexp, ldexp, log

MAX_BUCKETS = 160  # of an exponential histogram, as the specification has it
MAX_SCALE = 20
_EXEMPLAR_SLOTS = 20
_NONE_YET = 1 << 63  # greater than any value


# What was measured, when (CLOCK_MONOTONIC nanoseconds), and the trace and span id of a span that was kept.
Exemplar = tuple[int, int, tuple[bytes, bytes]]


class ExplicitHistogram:
    """Buckets between given bounds; keeps the newest exemplar of each."""

    __slots__ = ("bounds", "buckets", "exemplars", "greatest", "least", "total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.total = 0
        self.least = _NONE_YET
        self.greatest = -1

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def record(self, value: int, at_ns: int = 0, span: tuple[bytes, bytes] | None = None) -> None:
        self.total += value
        bucket = bisect_left(self.bounds, value)
        self.buckets[bucket] += 1
        if value < self.least:
            self.least = value
        if value > self.greatest:
            self.greatest = value
        if span is not None:
            self.exemplars[bucket] = value, at_ns, span

    def copy(self) -> "ExplicitHistogram":
        made = ExplicitHistogram.__new__(ExplicitHistogram)
        made.bounds, made.total, made.least, made.greatest = self.bounds, self.total, self.least, self.greatest
        made.buckets, made.exemplars = self.buckets[:], self.exemplars.copy()
        return made

    def add(self, other: "ExplicitHistogram") -> None:
        """All of another with the same bounds."""
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        self.exemplars.update(other.exemplars)


class ExponentialHistogram:
    """Buckets whose bounds are powers of 2 ** (2 ** -scale), of `per_unit` values; the scale adapts to what comes."""

    __slots__ = (
        "_factor",
        "_first_doubling",
        "_per_unit",
        "buckets",
        "exemplars",
        "greatest",
        "high",
        "least",
        "low",
        "scale",
        "total",
        "zeros",
    )

    def __init__(self, per_unit: int) -> None:
        self._per_unit = per_unit
        self._first_doubling = 15 if per_unit > 1 else 0
        self.buckets: dict[int, int] = {}
        self.exemplars: dict[int, Exemplar] = {}
        self.low = self.high = 0  # the lowest and the highest bucket in use
        self.zeros = 0
        self.total = 0
        self.least = _NONE_YET
        self.greatest = -1
        self._set_scale(MAX_SCALE)

    @property
    def count(self) -> int:
        return self.zeros + sum(self.buckets.values())

    def record(self, value: int, at_ns: int = 0, span: tuple[bytes, bytes] | None = None) -> None:
        self.total += value
        if value < self.least:
            self.least = value
        if value > self.greatest:
            self.greatest = value
        if span is not None:
            # One for each doubling, so that what is rare keeps its own: of nanoseconds, 32 µs to 17 s.
            slot = value.bit_length() - self._first_doubling
            self.exemplars[0 if slot < 0 else slot if slot < _EXEMPLAR_SLOTS else _EXEMPLAR_SLOTS - 1] = (
                value,
                at_ns,
                span,
            )
        if not value:
            self.zeros += 1
            return
        buckets = self.buckets
        index = self._index(value / self._per_unit)
        if index in buckets:
            buckets[index] += 1
            return
        if not self.low <= index <= self.high or not buckets:
            self._widen(index, index)
            index = self._index(value / self._per_unit)
        self.buckets[index] = self.buckets.get(index, 0) + 1

    def copy(self) -> "ExponentialHistogram":
        made = ExponentialHistogram.__new__(ExponentialHistogram)
        for name in self.__slots__:
            setattr(made, name, getattr(self, name))
        made.buckets, made.exemplars = self.buckets.copy(), self.exemplars.copy()
        return made

    def add(self, other: "ExponentialHistogram") -> None:
        """All of another of the same unit."""
        self.total += other.total
        self.zeros += other.zeros
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        self.exemplars.update(other.exemplars)
        if not other.buckets:
            return
        self._coarsen(max(0, self.scale - other.scale))
        before = self.scale
        shift = other.scale - before
        self._widen(other.low >> shift, other.high >> shift)
        shift += before - self.scale
        for index, count in other.buckets.items():
            self.buckets[index >> shift] = self.buckets.get(index >> shift, 0) + count

    def _index(self, value: float) -> int:
        """Bucket i takes base ** i < value <= base ** (i + 1)."""
        mantissa, exponent = frexp(value)  # value = mantissa * 2 ** exponent, mantissa from 0.5 on
        if self.scale > 0:
            if mantissa != 0.5:
                return floor(log(value) * self._factor)
            return (exponent - 1 << self.scale) - 1  # the upper bound of its bucket, which a logarithm may miss
        return exponent - 1 - (mantissa == 0.5) >> -self.scale

    def _widen(self, low: int, high: int) -> None:
        """Makes room for buckets from `low` to `high`, if need be by a coarser scale."""
        if self.buckets:
            low, high = min(low, self.low), max(high, self.high)
        change = 0
        while (high >> change) - (low >> change) >= MAX_BUCKETS:
            change += 1
        self._coarsen(change)
        self.low, self.high = low >> change, high >> change

    def _coarsen(self, change: int) -> None:
        if not change:
            return
        merged: dict[int, int] = {}
        for index, count in self.buckets.items():
            merged[index >> change] = merged.get(index >> change, 0) + count
        self.buckets = merged
        self.low, self.high = self.low >> change, self.high >> change
        self._set_scale(self.scale - change)

    def _set_scale(self, scale: int) -> None:
        self.scale = scale
        self._factor = ldexp(1 / log(2), scale)


Histogram = ExplicitHistogram | ExponentialHistogram
NewHistogram = Callable[[], Histogram]
