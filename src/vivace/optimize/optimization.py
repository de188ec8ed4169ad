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
from vivace.optimize.search import Search
from vivace.optimize.space import Space, Surroundings, usual
from vivace.optimize.trials import Trials

FINALISTS = 4
WARM_UP_SHARE = 0.3
FINAL_ROUNDS = 3
FINALS_UNTIL = 0.97  # of the time budget: the texts of the finalists are compared in the rest
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
        if self.trials.affords(self.naive, LADDER_UNTIL, WARM_UP_SHARE):
            self.trials.run(self.naive, WARM_UP_SHARE)  # the first run of a process is up to 35% off
        for first in (self.naive, usual(self.space)):  # whatever the time: there is something to say and to serve
            self.trials.run(first)
        self.trials.quality(usual(self.space))
        steps = techniques(self.space, self.surroundings, self.naive)
        self.ladder.climb(self.trials, self.gate, steps)
        eight = batch_of_eight(self.naive)
        if self.trials.affords(eight, LADDER_UNTIL):
            self.trials.run(eight)
        self.search.correct()
        self.search.narrow()
        self._settle(self.search)
        self.ladder.repeat(self.trials, FINALS_UNTIL)
        return self.answer()

    def answer(self) -> Answer:
        """By what has been measured so far. Raises `ConfigError` where that is not enough."""
        self.trials.is_over = True
        return make_answer(
            self.trials, self.space, self.gate, self.objective, self.ladder, self.search, self.spec, self.checked
        )

    def _settle(self, search: Search) -> None:
        """Climb from the best, repeat the best few beside the naive baseline, check their texts: until none of that
        changes who is best."""
        best: Candidate | None = None
        while True:
            search.climb()
            finalists = search.leaders(FINALISTS)
            self._repeat(finalists)
            for candidate in finalists:
                if candidate not in self.checked and self.surroundings.has_quality:
                    self.gate.allows_interaction(candidate, self.trials.interaction(candidate))
                self.checked.add(candidate)
            if search.best() == best:
                return
            best = search.best()

    def _repeat(self, finalists: list[Candidate]) -> None:
        for repetition in range(1, FINAL_ROUNDS):
            for candidate in (self.naive, *finalists):
                if self.trials.affords(candidate, FINALS_UNTIL, repetition=repetition):
                    self.trials.run(candidate, repetition=repetition)
