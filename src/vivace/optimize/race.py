"""The finals: who is best among the few that could be, told by as many heats as that takes.

All that are left run every heat together. Who is surely behind the leader drops out; it ends when one is left, when
nobody left can be better by more than `EQUAL`, or with the time (best-arm identification by racing; Maron and Moore,
1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vivace.optimize.candidate import Candidate
from vivace.optimize.interval import LEAST_RANKED
from vivace.optimize.standings import Standings

MOST_HEATS = 12
EARLIEST, BEHIND = 3, 0.97  # heats after which who lost all of them, and by so much, drops out
EQUAL = 1.03


@dataclass(slots=True)
class Race:
    """`num_heats` counts on from race to race of a search, so that each has a name of its own."""

    standings: Standings
    num_heats: int = 0
    dropped: dict[Candidate, str] = field(default_factory=dict)

    def run(self, entrants: Sequence[Candidate], until: float) -> None:
        """Before the share `until` of the time budget is over."""
        trials = self.standings.trials
        running = list(entrants)
        for _ in range(MOST_HEATS):
            running = self._left(running)
            name = f"race {self.num_heats}"
            if self._is_decided(running):
                return
            running = [*trials.fitting(running, until, name=name, least=2)]  # the first of them, where time is short
            if not running:
                return
            trials.heat(running, name=name)
            self.num_heats += 1

    def leader(self, candidates: Sequence[Candidate]) -> Candidate:
        return max(candidates, key=lambda one: self.standings.strength(one) or 0.0)

    def _left(self, running: list[Candidate]) -> list[Candidate]:
        leader = self.leader(running) if running else None
        left = []
        for candidate in running:
            reason = "" if leader is None or candidate == leader else self._lost(candidate, leader)
            if reason:
                self.dropped[candidate] = reason
            else:
                left.append(candidate)
        return left

    def _lost(self, candidate: Candidate, leader: Candidate) -> str:
        ratios = self.standings.ratio(candidate, leader)
        is_sure = ratios.high is not None and ratios.high < 1.0 and ratios.count >= EARLIEST
        if is_sure and (ratios.count >= LEAST_RANKED or ratios.value < BEHIND):
            return f"{100 * (1 - ratios.value):.1f}% behind the leader in {ratios.count} heats"
        return ""

    def _is_decided(self, running: list[Candidate]) -> bool:
        if len(running) < 2:
            return True
        leader = self.leader(running)
        others = [self.standings.ratio(one, leader) for one in running if one != leader]
        return all(one.count >= LEAST_RANKED and one.high is not None and one.high <= EQUAL for one in others)
