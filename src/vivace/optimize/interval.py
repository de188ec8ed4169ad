"""A ratio of two speeds with its uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# 97.5% quantiles of Student's t by degrees of freedom; 1.96 beyond.
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


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
    """The geometric mean of positive ratios; its interval by Student's t on their logarithms."""
    logs = [math.log(ratio) for ratio in ratios if ratio > 0]
    if not logs:
        return Interval(math.nan, count=0)
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(mean))
    quantile = STUDENT_T[len(logs) - 2] if len(logs) - 2 < len(STUDENT_T) else 1.96
    half = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))
