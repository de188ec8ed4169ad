"""How good candidates are beside each other, from heats that held some of them each.

The score of candidate c in heat h is taken as strength(c) * luck(h) * noise, and both are found by medians in turn
(median polish; Tukey, 1977, on logarithms): candidates that ran together are compared by what they did together, and
a single disturbed run moves nobody. Who ran in one heat alone says nothing of that heat's luck: it is told by those
who ran elsewhere as well, and is none where there are no such.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.optimize.candidate import Candidate
from vivace.optimize.interval import Interval, ratio_interval
from vivace.optimize.measurement import Measurement
from vivace.optimize.trials import Trials

SWEEPS = 4

Score = Callable[[Candidate, Measurement], float]


@dataclass(slots=True)
class Standings:
    """Of whole runs. `score`: larger is better, and twice as large is twice as good."""

    trials: Trials
    score: Score
    _strengths: dict[Candidate, float] = field(default_factory=dict)
    _num_trials: int = 0

    def strength(self, candidate: Candidate) -> float | None:
        """In the unit of the score; None where it was never measured."""
        if self._num_trials != self.trials.num_trials:
            self._strengths, self._num_trials = self._polished(), self.trials.num_trials
        return self._strengths.get(candidate)

    def ratio(self, candidate: Candidate, other: Candidate) -> Interval:
        """Of their scores in common heats."""
        return ratio_interval(
            [
                self.score(candidate, own) / self.score(other, its)
                for own, its in self.trials.pairs(candidate, other)
                if self.score(other, its) > 0
            ]
        )

    def _polished(self) -> dict[Candidate, float]:
        entries: dict[Candidate, list[tuple[str, float]]] = {}
        heats: dict[str, list[tuple[Candidate, float]]] = {}
        for candidate, runs in self.trials.runs.items():
            for one in runs:
                points = None if one.measurement is None else self.score(candidate, one.measurement)
                if points is not None and points > 0:
                    entries.setdefault(candidate, []).append((one.heat, math.log(points)))
                    heats.setdefault(one.heat, []).append((candidate, math.log(points)))
        luck = dict.fromkeys(heats, 0.0)
        strengths: dict[Candidate, float] = {}
        for _ in range(SWEEPS):
            strengths = {
                candidate: statistics.median(points - luck[heat] for heat, points in found)
                for candidate, found in entries.items()
            }
            for heat, found in heats.items():
                told = [points - strengths[one] for one, points in found if len(entries[one]) > 1]
                luck[heat] = statistics.median(told) if told else 0.0
        return {candidate: math.exp(points) for candidate, points in strengths.items()}
