"""Lengths as they are found in use: many short, few long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class LengthRange:
    """Tokens of a prompt or an answer: log-normal around `median`, cut to `low`..`high`; uniform without a median."""

    low: int
    high: int
    median: int | None = None
    spread: float = 0.6  # standard deviation of the logarithm: two thirds lie within a factor of 1.8

    def draw(self, random: Random) -> int:
        if self.median is None:
            return random.randint(self.low, self.high)
        length = random.lognormvariate(math.log(self.median), self.spread)
        return min(max(round(length), self.low), self.high)

    def within(self, most: int) -> LengthRange:
        """The same shape, made smaller where it would go beyond `most`."""
        if self.high <= most:
            return self
        scale = most / self.high
        median = None if self.median is None else max(1, round(self.median * scale))
        return LengthRange(max(1, round(self.low * scale)), max(1, most), median, self.spread)
