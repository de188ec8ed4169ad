"""A histogram that costs one binary search and two additions to fill."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# A small model on a CPU answers in milliseconds, a large one at depth in minutes. Each bucket costs a scrape 1 µs.
LATENCY_S = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.0, 3.5, 5.0, 7.5, 10.0, 15.0, 25.0, 50.0, 100.0, 250.0, 1000.0),
)
TOKEN_LATENCY_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0),
)
TOKENS = (*(1.0, 8.0, 32.0, 64.0, 128.0, 256.0, 512.0), *(1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 131072.0))
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Histogram:
    """Counts of values by bucket. `bounds` are the inclusive upper ends, in ascending order.

    prometheus_client's own takes a lock and walks the buckets: 1.5 µs a value against 0.25, at every token.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._names = (*map(str, self.bounds), "+Inf")
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of `le` and the number of values up to it, as an exposition lists them."""
        total, pairs = 0, []
        for bound, count in zip(self._names, self.counts, strict=True):
            total += count
            pairs.append((bound, float(total)))
        return pairs
