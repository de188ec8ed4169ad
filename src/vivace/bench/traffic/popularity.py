"""Few things that everybody asks for, many that hardly anybody does."""

from __future__ import annotations

from itertools import accumulate
from random import Random


class Popularity:
    """Zipf's law over `count` things: the one of rank k is drawn in proportion to 1/k**exponent."""

    def __init__(self, count: int, exponent: float = 1.0) -> None:
        self._ranks = range(count)
        self._sums = list(accumulate(rank**-exponent for rank in range(1, count + 1)))

    def draw(self, random: Random) -> int:
        """A rank from 0, the most popular."""
        return random.choices(self._ranks, cum_weights=self._sums)[0]

    def draw_distinct(self, random: Random, number: int) -> list[int]:
        """`number` different ranks in the order in which they were drawn; all of them where there are no more."""
        drawn: dict[int, None] = {}
        while len(drawn) < min(number, len(self._ranks)):
            drawn[self.draw(random)] = None
        return list(drawn)
