"""From a space too large to measure to the few that matter.

Every candidate is forecast. The best forecast of each pair of weights and cache, and all neighbours of the best one,
run a part of the workload; a third goes on to a larger part, until few run it all (successive halving; Jamieson and
Talwalkar, 2016). Then single values are changed around the best until none helps. Candidates run in heats of a few.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice

from vivace.optimize.candidate import Candidate
from vivace.optimize.gate import Gate
from vivace.optimize.measurement import Forecast
from vivace.optimize.objective import Objective
from vivace.optimize.recalibration import CostTerms, Recalibration
from vivace.optimize.space import Space
from vivace.optimize.standings import Standings
from vivace.optimize.trials import Trial, Trials

KEPT = 1 / 3  # of the candidates of a rung
LIGHTEST = 2  # and those with the least latency and memory
HOPELESS = 0.5  # of the best forecast: a family below is not measured
JUDGING_UNTIL = 0.9  # of the time budget: who is not judged by then cannot win
LAST_UNTIL = 0.97
GAIN = 1.02  # a change must bring so much to be followed
HALVING_UNTIL, CLIMBING_UNTIL = 0.48, 0.55  # shares of the time budget
TOGETHER = 8  # candidates of a heat
BEATEN, BEATEN_IN_PART = 0.9, 0.8  # of the best: who is known to reach no more is not measured again
TIE = 0.98  # of the best score: as good as equal, so quality and memory decide
MARGIN = 0.94  # of the best: who may be the best in truth; one heat's ratios are off by 3%


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a candidate went no further."""

    candidate: Candidate
    stage: str
    reason: str


@dataclass(slots=True)
class Search:
    """The path from all candidates to the best ones. `forecasts` are as the model of the machine made them."""

    space: Space
    trials: Trials
    objective: Objective
    gate: Gate
    max_entrants: int
    shares: tuple[float, ...] = (0.3, 1.0)
    forecasts: dict[Candidate, Forecast] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    num_forecast: int = 0
    recalibration: Recalibration = field(default_factory=Recalibration)
    latency_ratio: float = 1.0  # measured over forecast
    seen: set[Candidate] = field(default_factory=set)  # measured before forecasts were brought in line
    climbed: set[Candidate] = field(default_factory=set)
    beaten: set[Candidate] = field(default_factory=set)
    standings: Standings = field(init=False)

    def __post_init__(self) -> None:
        self.standings = Standings(self.trials, self.objective.score)

    def narrow(self, top: Candidate) -> None:
        """From the whole space to the few that ran the whole workload; the ladder's top is one of them."""
        self._halve(self.entrants(), top)

    def leaders(self, count: int) -> list[Candidate]:
        """The best by score, best first, that the bars allow."""
        return sorted(self.accepted(), key=lambda one: -self.score(one))[:count]

    def ranking(self, among: Set[Candidate]) -> list[Candidate]:
        """The pick first: of those that are as good as equal, the one with the best text and the least memory."""
        accepted = [one for one in self.accepted() if one in among]
        best = max(map(self.score, accepted), default=0.0)
        equal = [one for one in accepted if self.score(one) >= TIE * best]
        equal.sort(key=lambda one: (self._loss(one), self._memory_bytes(one), -self.score(one)))
        rest = [one for one in accepted if one not in equal]
        return [*equal, *sorted(rest, key=lambda one: -self.score(one))]

    def _loss(self, candidate: Candidate) -> float:
        quality = self.trials.known_quality(candidate)
        return 0.0 if quality is None else quality.kl

    def _memory_bytes(self, candidate: Candidate) -> int:
        measured = self.trials.measurement(candidate)
        return 0 if measured is None else measured.memory_bytes

    def contenders(self) -> list[Candidate]:
        """Those that may be the best, as far as few runs can tell."""
        ranked = self.leaders(TOGETHER)
        return [one for one in ranked if self.score(one) >= MARGIN * self.score(ranked[0])]

    def recalibrate(self) -> None:
        """Bring forecasts in line with what was measured so far of candidates that do not guess: how much of a guess
        stands depends on the text."""
        known = [
            (self.expected(one), measured)
            for one in self.trials.runs
            if one.speculation is None and (measured := self.trials.measurement(one)) is not None
        ]
        self.seen = set(self.trials.runs)
        if known:
            terms, seconds = zip(*((_terms(cast), 1 / own.tokens_per_s) for cast, own in known), strict=True)
            self.recalibration = Recalibration.fit(terms, seconds)
            self.latency_ratio = statistics.median(
                own.single_latency_ms / cast.single_latency_ms for cast, own in known
            )
            self.forecasts.clear()

    def forecast_errors(self) -> tuple[float, float] | None:
        """The median error of throughputs before and after the recalibration, of candidates that it had not seen;
        None without such."""
        pairs = [
            (self.expected(one), self.forecast(one), measured)
            for one in self.trials.runs
            if one not in self.seen and (measured := self.trials.measurement(one)) is not None
        ]
        if not pairs:
            return None
        before = statistics.median(abs(raw.tokens_per_s / own.tokens_per_s - 1) for raw, _, own in pairs)
        after = statistics.median(abs(cast.tokens_per_s / own.tokens_per_s - 1) for _, cast, own in pairs)
        return before, after

    def entrants(self) -> list[Candidate]:
        """The promising, best first: one of every pair of weights and cache, and what is near the very best."""
        expected = [(one, self.forecast(one)) for one in self.space.candidates(foreseeable=True)]
        self.num_forecast = len(expected)
        allowed = [(one, cast) for one, cast in expected if self._fits(cast)]
        ranked = sorted(allowed, key=lambda pair: -self.objective.promise(*pair))
        if not ranked:
            return []
        best = ranked[0][0]
        families: dict[tuple[str, str], Candidate] = {}
        for candidate, _ in ranked:
            families.setdefault(candidate.logits_key, candidate)
        hopeful = [one for one in families.values() if not self._is_hopeless(one, best)]
        near = [one for one in self.space.neighbours(best) if self._fits(self.forecast(one))]
        near.sort(key=lambda one: -self._promise(one))
        return list(dict.fromkeys([*hopeful, *near]))[: self.max_entrants]

    def forecast(self, candidate: Candidate) -> Forecast:
        """In line with what the ladder has measured."""
        if candidate not in self.forecasts:
            cast = self.expected(candidate)
            self.forecasts[candidate] = replace(
                cast,
                tokens_per_s=1 / self.recalibration.seconds(_terms(cast)),
                single_latency_ms=cast.single_latency_ms * self.latency_ratio,
            )
        return self.forecasts[candidate]

    def expected(self, candidate: Candidate) -> Forecast:
        """As the model of the machine has it."""
        return self.trials.laboratory.forecast(candidate)

    def best(self) -> Candidate | None:
        return max(self.accepted(), key=self.score, default=None)

    def accepted(self) -> list[Candidate]:
        """Whole runs of candidates that nothing speaks against, in the order in which they were measured."""
        return [
            one
            for one in self.trials.runs
            if one not in self.gate.refused
            and one.batching == "continuous"
            and (measured := self.trials.measurement(one)) is not None
            and measured.num_failed == 0
            and self.standings.strength(one) is not None
            and self._is_good(one)
        ]

    def score(self, candidate: Candidate) -> float:
        """In the unit of the objective, by all heats together."""
        strength = self.standings.strength(candidate)
        return -math.inf if strength is None else strength

    def _fits(self, expected: Forecast) -> bool:
        limit = self.gate.max_memory_bytes
        return limit is None or expected.memory_bytes <= limit

    def _promise(self, candidate: Candidate) -> float:
        return self.objective.promise(candidate, self.forecast(candidate))

    def _is_hopeless(self, candidate: Candidate, best: Candidate) -> bool:
        share = self._promise(candidate) / self._promise(best)
        if share >= HOPELESS:
            return False
        self.dropped.append(Dropped(candidate, "forecast", f"expected to reach {100 * share:.0f}% of the best"))
        return True

    def _halve(self, candidates: list[Candidate], top: Candidate) -> None:
        """Each rung runs a larger part of the workload with a third of the candidates."""
        promising, candidates = candidates, self._in_time(candidates)
        if len(candidates) < 2:
            self._run_promising(promising)
            return
        for rung, share in enumerate(self.shares):
            runs = []
            for wanted in _heats(candidates, TOGETHER):
                heat = self.trials.fitting(wanted, HALVING_UNTIL, share, "halving")
                self._drop_for_time(wanted[len(heat) :])
                for trial in self.trials.heat(heat, share, "halving") if heat else ():
                    if trial.measurement is None:
                        self.dropped.append(Dropped(trial.candidate, "failed", trial.failure))
                    else:
                        runs.append(trial)
            if rung + 1 < len(self.shares):
                candidates = self._survivors(runs, share)
                if top.batching == "continuous":
                    candidates = list(dict.fromkeys([top, *candidates]))
            else:
                for trial in runs:
                    self._is_good(trial.candidate)

    def _in_time(self, candidates: list[Candidate]) -> list[Candidate]:
        """The most promising ones, so many that a third of them can still run the whole workload."""
        count = self.trials.noted("entrants", lambda: self._num_in_time(candidates))
        if count > 1:
            self._drop_for_time(candidates[count:])
        return candidates[:count]

    def _run_promising(self, candidates: list[Candidate]) -> None:
        """Where there is no time for parts: the whole workload with as many as there is time for at all."""
        heat = self.trials.fitting(candidates[:TOGETHER], LAST_UNTIL, name="promising")
        self._drop_for_time(candidates[len(heat) :])
        for trial in self.trials.heat(heat, name="promising") if heat else ():
            self._is_good(trial.candidate)

    def _num_in_time(self, candidates: list[Candidate]) -> int:
        for count in range(len(candidates), 1, -1):
            chosen = candidates[:count]
            usual_s = statistics.fmean(self.trials.cost_s(one) for one in chosen)
            whole_s = (math.ceil(KEPT * count) + LIGHTEST) * usual_s
            if self.trials.budget.allows(self.trials.heat_s(chosen, self.shares[0]) + whole_s, HALVING_UNTIL):
                return count
        return min(1, len(candidates))

    def _drop_for_time(self, candidates: Sequence[Candidate]) -> None:
        known = {one.candidate for one in self.dropped if one.stage == "time"} | {*self.trials.runs}
        self.dropped += [Dropped(one, "time", "the time budget was over") for one in candidates if one not in known]

    def _survivors(self, runs: list[Trial], share: float) -> list[Candidate]:
        """The best by score that the gate lets through, and those with the least latency and memory. Quality is
        judged of those alone: it takes longer than a run."""
        ranked = sorted(runs, key=lambda one: -self._score_of(one))
        kept = self._first_good(ranked, math.ceil(KEPT * len(runs)))
        for figure in (_latency, _memory):
            kept += self._first_good(sorted(runs, key=figure), 1)
        best = max(map(self._score_of, runs), default=1.0)
        for one in ranked:
            if one.candidate not in kept and one.candidate not in self.gate.refused:
                tenths = math.floor(10 * self._score_of(one) / best)
                reason = f"{10 * tenths} to {10 * tenths + 10}% of the best in {100 * share:.0f}% of the workload"
                self.dropped.append(Dropped(one.candidate, "halving", reason))
                if self._score_of(one) < BEATEN_IN_PART * best:
                    self.beaten.add(one.candidate)
        return list(dict.fromkeys(kept))

    def _first_good(self, runs: list[Trial], count: int) -> list[Candidate]:
        good = (one.candidate for one in runs if self._is_good(one.candidate))
        return list(islice(good, count))

    def _score_of(self, trial: Trial) -> float:
        assert trial.measurement is not None
        return self.objective.score(trial.candidate, trial.measurement)

    def _is_good(self, candidate: Candidate) -> bool:
        """Whether bars of quality and memory let it through, by what is measured."""
        if candidate in self.gate.refused or not self.trials.may_judge(candidate, JUDGING_UNTIL):
            return False
        found = [
            one for one in (*self.trials.runs.get(candidate, ()), *self.trials.partial) if one.candidate == candidate
        ]
        memory = max((one.measurement.memory_bytes for one in found if one.measurement is not None), default=0)
        return self.gate.allows_memory(candidate, memory) and self.gate.allows_quality(
            candidate, self.trials.quality(candidate)
        )

    def climb(self) -> None:
        """Change one value at a time; follow the best change while it brings more than noise."""
        at = self.best()
        while at is not None and at not in self.climbed:
            self.climbed.add(at)
            hopeful = [one for one in self.space.neighbours(at) if self._is_hopeful(one, at)]
            hopeful.sort(key=lambda one: -self._promise(one))
            for group in _heats(hopeful, TOGETHER - 1):
                heat = self.trials.fitting([at, *group], CLIMBING_UNTIL, name="climb", least=2)
                self._drop_for_time(group if not heat else group[len(heat) - 1 :])
                if heat:
                    self.trials.heat(heat, name="climb")
            better = self.best()
            if better is None or self.score(better) < GAIN * self.score(at):
                return
            at = better

    def rivals(self, pick: Candidate) -> list[Candidate]:
        """The most promising other value of each axis on which nothing was measured in the pick's place."""
        near = [one for one in self.space.neighbours(pick) if self._fits(self.forecast(one))]
        near.sort(key=lambda one: -self._promise(one))
        measured = {one.differences(pick) for one in self.trials.runs}
        best: dict[tuple[str, ...], Candidate] = {}
        for one in near:
            best.setdefault(one.differences(pick), one)
        return [one for axes, one in best.items() if axes not in measured]

    def _is_hopeful(self, candidate: Candidate, at: Candidate) -> bool:
        known = self.standings.strength(candidate)
        is_beaten = candidate in self.beaten or (known is not None and known < BEATEN * self.score(at))
        return not is_beaten and candidate not in self.gate.refused and self._fits(self.forecast(candidate))


def _heats(candidates: Sequence[Candidate], size: int) -> list[Sequence[Candidate]]:
    """As few as there must be, of equal size."""
    count = math.ceil(len(candidates) / size)
    return [candidates[place::count] for place in range(count)]


def _terms(expected: Forecast) -> CostTerms:
    return CostTerms(1 / expected.tokens_per_s, expected.steps, expected.prompt_tokens)


def _latency(trial: Trial) -> float:
    assert trial.measurement is not None
    return trial.measurement.single_latency_ms


def _memory(trial: Trial) -> float:
    assert trial.measurement is not None
    return trial.measurement.memory_bytes
