"""The closed loop from beginning to end: ladder, search, finals, checks, answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from vivace.models.spec import ModelSpec
from vivace.optimize.answer import Answer, make_answer
from vivace.optimize.candidate import Candidate
from vivace.optimize.claims import batch_of_eight
from vivace.optimize.gate import Gate
from vivace.optimize.ladder import LADDER_UNTIL, Ladder, techniques
from vivace.optimize.objective import Objective
from vivace.optimize.race import Race
from vivace.optimize.search import LAST_UNTIL, Search
from vivace.optimize.space import Space, Surroundings, usual
from vivace.optimize.trials import Trials

FINALISTS = 4
CLOSING_HEATS = 4
RACING_UNTIL = 0.72  # of the time budget
MOST_ENTRANTS = 24


@dataclass(slots=True)
class Optimization:
    """One run of the loop. `spec` is the model's, where there is one: for claims about its shape."""

    trials: Trials
    space: Space
    surroundings: Surroundings
    naive: Candidate
    gate: Gate
    objective: Objective
    spec: ModelSpec | None = None
    max_entrants: int = MOST_ENTRANTS
    ladder: Ladder | None = None
    search: Search | None = None
    checked: set[Candidate] = field(default_factory=set)  # their texts were compared

    def run(self) -> Answer:
        """Raises `ConfigError` where no candidate passes; `answer` tells what is known at any moment."""
        self.search = Search(self.space, self.trials, self.objective, self.gate, self.max_entrants)
        self.ladder = Ladder(self.naive)
        first = [self.naive, usual(self.space)]
        self.trials.heat(first)  # whatever the time: there is something to say and to serve
        self.trials.quality(usual(self.space))
        steps = techniques(self.space, self.surroundings, self.naive)
        self.ladder.climb(self.trials, self.gate, steps)
        eight = [self.naive, batch_of_eight(self.naive)]
        if self.trials.affords(eight, LADDER_UNTIL):
            self.trials.heat(eight, sweep=False)
        self.search.recalibrate()
        self.search.narrow(self.ladder.top)
        self._settle(self.search)
        self._close(self.search)
        self.ladder.repeat(self.trials, LAST_UNTIL)
        return self.answer()

    def answer(self) -> Answer:
        """By what has been measured so far. Raises `ConfigError` where that is not enough."""
        self.trials.is_over = True
        return make_answer(
            self.trials, self.space, self.gate, self.objective, self.ladder, self.search, self.spec, self.checked
        )

    def _settle(self, search: Search) -> None:
        """Climb from the best, race those that may be it, check the texts of the first few: until none of that
        changes who is best."""
        race = Race(search.standings)
        best: Candidate | None = None
        while True:
            search.climb()
            race.run(search.contenders(), RACING_UNTIL)
            self._ranking_checked(search)
            if search.best() == best:
                return
            best = search.best()

    def _ranking_checked(self, search: Search) -> list[Candidate]:
        """The pick first, of those whose texts were compared: the leaders' are, as far as the time goes."""
        for candidate in search.leaders(FINALISTS):
            self._check(candidate)
        return search.ranking(self.checked)

    def _check(self, candidate: Candidate) -> None:
        """Compare its texts, if there is time for it; the first one's in any case."""
        if candidate in self.checked or (self.checked and not self.trials.may_compare(candidate, LAST_UNTIL)):
            return
        if self.surroundings.has_quality:
            self.gate.allows_interaction(candidate, self.trials.interaction(candidate))
        self.checked.add(candidate)

    def _close(self, search: Search) -> None:
        """The reasons for each value of the pick, which may show a better one; then the first two beside the naive
        baseline: what it brought altogether."""
        ranking = search.ranking(self.checked)
        if ranking:
            self.trials.fusion(ranking[0])
            rivals = [ranking[0], *search.rivals(ranking[0])]
            if len(rivals) > 1 and self.trials.affords(rivals, LAST_UNTIL, name="rivals"):
                self.trials.heat(rivals, name="rivals")
                ranking = self._ranking_checked(search)
        heat = [self.naive, *ranking[:2]]
        for repetition in range(CLOSING_HEATS):
            if self.trials.affords(heat, LAST_UNTIL, name=f"close {repetition}"):
                self.trials.heat(heat, name=f"close {repetition}", sweep=False)
