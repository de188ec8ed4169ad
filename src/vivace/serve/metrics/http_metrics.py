"""HTTP exchanges by route, method and status."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable

from vivace.serve.metrics.histogram import LATENCY_S, Histogram

UNMATCHED = "unmatched"  # the route of all that none of ours took
OTHER = "other"  # the method of all that is not one of these
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})


class HttpMetrics:
    """Counts answers. Routes are patterns of our own, never a client's string: labels stay few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.num_exchanges: Counter[tuple[str, str, int]] = Counter()  # by route, method and status
        self.duration_s: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LATENCY_S))  # by route
        self.num_open = 0

    def answered(self, route: str, method: str, status: int, duration_s: float) -> None:
        self.num_exchanges[route, method if method in METHODS else OTHER, status] += 1
        self.duration_s[route].observe(duration_s)
