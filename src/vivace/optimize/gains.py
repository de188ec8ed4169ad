"""How much faster than the naive baseline: one figure, whoever tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.optimize.candidate import Candidate
from vivace.optimize.interval import LEAST_REPEATED, Interval
from vivace.optimize.measurement import Measurement
from vivace.optimize.standings import Standings
from vivace.optimize.trials import Trials

Figure = Callable[[Measurement], float]


@dataclass(slots=True)
class Gains:
    """Over `naive`. Of candidates that ran beside it in three heats or more the ratio in those, with its interval.
    Of others all heats together tell, without one: the one heat of a short budget may have been a bad one."""

    trials: Trials
    naive: Candidate
    _standings: dict[Figure, Standings] = field(default_factory=dict)

    def of(self, candidate: Candidate, figure: Figure) -> Interval:
        beside = self.trials.ratio(candidate, self.naive, figure)
        if beside.count >= LEAST_REPEATED or self.trials.sweeps:
            return beside
        own, other = self._strength(candidate, figure), self._strength(self.naive, figure)
        return beside if own is None or other is None else Interval(own / other, count=beside.count)

    def level(self, candidate: Candidate, figure: Figure) -> float:
        """The figure by all heats together. Of rates that were swept each has its own: as measured then."""
        measured = self.trials.measurement(candidate)
        assert measured is not None
        strength = None if self.trials.sweeps else self._strength(candidate, figure)
        return figure(measured) if strength is None else strength

    def _strength(self, candidate: Candidate, figure: Figure) -> float | None:
        if figure not in self._standings:
            self._standings[figure] = Standings(self.trials, lambda _, measured: figure(measured))
        return self._standings[figure].strength(candidate)
