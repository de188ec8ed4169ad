"""A ratio of two speeds with its uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

STUDENT_T = (12.71, 4.30, 3.18, 2.78)  # its 97.5% quantiles by degrees of freedom
LEAST_RANKED = 6  # with fewer no ranks are as rare as 1 in 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95% interval; without repetitions there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 1

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ({self.low:.3g} - {self.high:.3g})"


def ratio_interval(ratios: Sequence[float]) -> Interval:
    """Of positive ratios. From six on the Hodges-Lehmann estimate, the median of the means of all pairs, with the
    exact interval of the signed-rank test (Hollander and Wolfe, 1999, 3.2): one disturbed run moves neither. Fewer
    allow no such interval: their geometric mean, with that of Student's t on logarithms."""
    logs = sorted(math.log(ratio) for ratio in ratios if ratio > 0)
    if not logs:
        return Interval(math.nan, count=0)
    if len(logs) < LEAST_RANKED:
        return _student(logs)
    means = sorted((one + other) / 2 for place, one in enumerate(logs) for other in logs[place:])
    outer = _signed_rank_quantile(len(logs))
    low, high = means[outer], means[-1 - outer]
    return Interval(math.exp(statistics.median(means)), math.exp(low), math.exp(high), len(logs))


def _student(logs: Sequence[float]) -> Interval:
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(mean))
    half = STUDENT_T[len(logs) - 2] * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


@cache
def _signed_rank_quantile(count: int) -> int:
    """How many of the smallest and of the largest pair means lie outside of a 95% interval: the greatest sum of
    positive ranks that, or less than that, 2.5% of all signs have at most."""
    ways = [1]  # by the sum of the ranks that are positive
    for rank in range(1, count + 1):
        longer = ways + [0] * rank
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    return sum(below <= 0.025 * 2**count for below in accumulate(ways)) - 1
