"""Everything that is measured goes through here: noted down, protected from drift, within the budget."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vivace.optimize.candidate import Candidate
from vivace.optimize.drift import DriftGuard, SteadyOutcome
from vivace.optimize.fusion import Fusion
from vivace.optimize.interval import Interval, ratio_interval
from vivace.optimize.laboratory import Laboratory
from vivace.optimize.measurement import Interaction, Measurement, Quality
from vivace.optimize.notebook import Notebook, Record
from vivace.optimize.time_budget import TimeBudget

Report = Callable[[str, Candidate | None], None]
REPEATING_UNTIL = 0.9  # of the time budget: behind it what drift spoiled stays so, and says so
FUSION_UNTIL = 0.95


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of a candidate, or why there is none. Trials of the same `heat` ran together: their ratios are
    surer than their figures."""

    candidate: Candidate
    share: float
    heat: str
    measurement: Measurement | None
    failure: str = ""
    drift: float = 0.0
    num_discarded: int = 0

    @classmethod
    def from_record(cls, candidate: Candidate, share: float, heat: str, record: Record) -> Trial:
        measured = record["measurement"]
        return cls(
            candidate,
            share,
            heat,
            None if measured is None else Measurement.from_record(measured),
            record["failure"],
            record["drift"],
            record["num_discarded"],
        )


@dataclass(slots=True)
class Trials:
    """The measuring side with a memory. `runs` holds whole runs of the workload, by candidate, in their order.
    `sweeps`: what counts is how candidates do at rates of requests, unless a heat is for something else."""

    laboratory: Laboratory
    notebook: Notebook
    budget: TimeBudget
    report: Report
    sweeps: bool = False
    runs: dict[Candidate, list[Trial]] = field(default_factory=dict)
    partial: list[Trial] = field(default_factory=list)
    is_over: bool = False  # nothing is measured any more: what is not known stays so
    num_trials: int = 0
    _heats: dict[str, list[Trial]] = field(default_factory=dict)
    _counted: set[str] = field(default_factory=set)  # entries whose time is counted
    _guard: DriftGuard | None = None
    _judging_s: float = 0.0  # what the last judgement took
    _comparing_s: float = 0.0  # and the last comparison of texts
    _costs: dict[Candidate, float] = field(default_factory=dict)  # seconds of a whole run
    _stretches: dict[Candidate, float] = field(default_factory=dict)  # times as long as expected by forecast

    def heat(
        self, candidates: Sequence[Candidate], share: float = 1.0, name: str = "", *, sweep: bool = True
    ) -> list[Trial]:
        """All of them together, measured now or known already. `name` tells heats of the same candidates apart."""
        key = _heat_key(candidates, share, name)
        if key in self._heats:
            return self._heats[key]
        is_swept, guard = sweep and self.sweeps, self.guard
        records = self._entry(key, lambda: {"outcomes": self._measure(guard, candidates, share, is_swept)})[
            "outcomes"
        ]
        self._heats[key] = [
            Trial.from_record(one, share, key, record) for one, record in zip(candidates, records, strict=True)
        ]
        self.num_trials += len(candidates)
        for trial in self._heats[key]:
            self._take(trial)
        return self._heats[key]

    def _take(self, trial: Trial) -> None:
        candidate = trial.candidate
        if trial.share < 1.0:
            self.partial.append(trial)
        else:
            self.runs.setdefault(candidate, []).append(trial)
        if trial.measurement is not None:
            before = self._costs.get(candidate, 0.0) if self.sweeps else 0.0
            self._costs[candidate] = max(before, trial.measurement.seconds / trial.share)
            expected_s = self.laboratory.expected_s(candidate, trial.measurement.is_at_rates) * trial.share
            self._stretches[candidate] = trial.measurement.seconds / max(1e-9, expected_s)

    def affords(self, candidates: Sequence[Candidate], until: float, share: float = 1.0, name: str = "") -> bool:
        """Whether the heat is known, or there is time for it before the share `until` of the budget is over."""
        if self._is_known(candidates, share, name):
            return True
        return self.budget.allows(self.heat_s(candidates, share), until)

    def fitting(
        self, candidates: Sequence[Candidate], until: float, share: float = 1.0, name: str = "", least: int = 1
    ) -> Sequence[Candidate]:
        """As many of the first as there is time for, or as an interrupted run had time for; none where those are
        fewer than `least`."""
        heats = [candidates[:count] for count in range(len(candidates), least - 1, -1)]
        known = (heat for heat in heats if self._is_known(heat, share, name))
        fitting = (heat for heat in heats if self.budget.allows(self.heat_s(heat, share), until))
        return next(known, None) or next(fitting, ())

    def heat_s(self, candidates: Sequence[Candidate], share: float = 1.0) -> float:
        """Seconds that a heat should take, weights that must be loaded included."""
        loading_s = self.laboratory.expected_loading_s(candidates)
        return loading_s + sum(self.cost_s(one) for one in candidates) * share

    def _is_known(self, candidates: Sequence[Candidate], share: float, name: str) -> bool:
        return self.notebook.known(_heat_key(candidates, share, name)) is not None

    def noted(self, key: str, decide: Callable[[], int]) -> int:
        """What was decided by the time that was left: an interrupted run that goes on decides the same."""
        count: int = self.notebook.entry(f"decision {key}", lambda: {"count": decide()})["count"]
        return count

    def quality(self, candidate: Candidate) -> Quality | None:
        """Of the candidate's weights and cache. None for random weights."""
        key = "quality " + " ".join(candidate.logits_key)
        record = self._entry(key, lambda: {"quality": self._judge(candidate)})
        self._judging_s = record["took_s"]
        return _quality(record)

    def may_judge(self, candidate: Candidate, until: float) -> bool:
        """Whether its quality is known, or there is time to find it out."""
        if self.notebook.known("quality " + " ".join(candidate.logits_key)) is not None:
            return True
        return not self.is_over and self.budget.allows(self._judging_s, until)

    def known_quality(self, candidate: Candidate) -> Quality | None:
        """As `quality`, but None where it was not judged."""
        found = self.notebook.known("quality " + " ".join(candidate.logits_key))
        return None if found is None else _quality(found)

    def interaction(self, candidate: Candidate) -> Interaction:
        record = self._entry(f"interaction {candidate.key}", lambda: {"texts": self._compare(candidate)})
        self._comparing_s = record["took_s"]
        return Interaction.from_record(record["texts"])

    def may_compare(self, candidate: Candidate, until: float) -> bool:
        """Whether its texts were compared, or there is time for it."""
        is_known = self.notebook.known(f"interaction {candidate.key}") is not None
        return is_known or self.budget.allows(self._comparing_s, until)

    def fusion(self, candidate: Candidate) -> Fusion | None:
        """None where it is not known and nothing is measured any more."""
        key = f"fusion {candidate.key}"
        if self.notebook.known(key) is None and (self.is_over or not self.budget.allows(0.0, FUSION_UNTIL)):
            return None
        return Fusion.from_record(self._entry(key, lambda: self.laboratory.fusion(candidate).record()))

    def cost_s(self, candidate: Candidate) -> float:
        """Seconds that a whole run of the candidate will take, pulses included: as it took, else as forecast, by
        what others took beside their forecasts."""
        known = self._costs.get(candidate)
        if known is not None:
            return known
        stretch = statistics.median(self._stretches.values()) if self._stretches else 1.0
        return stretch * self.laboratory.expected_s(candidate, self.sweeps)

    def measurement(self, candidate: Candidate) -> Measurement | None:
        """The median of its whole runs, by throughput; of those at rates, where there are any, by what is told
        there."""
        whole = [one.measurement for one in self.runs.get(candidate, ()) if one.measurement is not None]
        whole = [one for one in whole if one.is_at_rates] or whole
        whole.sort(key=lambda one: one.rank)
        return whole[(len(whole) - 1) // 2] if whole else None

    def ratio(self, candidate: Candidate, baseline: Candidate, figure: Callable[[Measurement], float]) -> Interval:
        """How much larger a figure is than the baseline's, heat by heat, with a 95% interval. Those who never ran
        together are compared by their medians, without one."""
        ratios = [figure(own) / figure(other) for own, other in self.pairs(candidate, baseline) if figure(other) > 0]
        if ratios:
            return ratio_interval(ratios)
        own, other = self.measurement(candidate), self.measurement(baseline)
        return ratio_interval([figure(own) / figure(other)] if own is not None and other is not None else [])

    def pairs(self, candidate: Candidate, other: Candidate) -> list[tuple[Measurement, Measurement]]:
        """Whole runs of the two in common heats."""
        by_heat = {one.heat: one.measurement for one in self.runs.get(other, ()) if one.measurement is not None}
        return [
            (one.measurement, by_heat[one.heat])
            for one in self.runs.get(candidate, ())
            if one.measurement is not None and one.heat in by_heat
        ]

    @property
    def num_discarded(self) -> int:
        """Heats that drift spoiled."""
        trials = [one for runs in (*self.runs.values(), self.partial) for one in runs]
        return sum({one.heat: one.num_discarded for one in trials}.values())

    def _entry(self, key: str, make: Callable[[], Record]) -> Record:
        """Noted down with the time that it took; what is recalled counts as spent, once."""
        started = self.laboratory.clock()
        is_known = self.notebook.known(key) is not None
        record = self.notebook.entry(key, lambda: {**make(), "took_s": self.laboratory.clock() - started})
        if is_known and key not in self._counted:
            self.budget.earlier_s += record["took_s"]
        self._counted.add(key)
        return record

    def _measure(self, guard: DriftGuard, candidates: Sequence[Candidate], share: float, sweep: bool) -> list[Record]:
        for candidate in candidates:
            self.report("measuring", candidate)
        started, loaded_s = self.laboratory.clock(), self.laboratory.loading_s
        found = guard.measure(
            lambda: self.laboratory.measure(candidates, share, sweep),
            lambda: self.budget.allows(self.laboratory.clock() - started, REPEATING_UNTIL),
        )
        loaded_s = self.laboratory.loading_s - loaded_s
        wall_s = (self.laboratory.clock() - started - loaded_s) / (1 + found[0].num_discarded)
        own_s = sum(one.measurement.seconds for one in found if one.measurement is not None)
        return [_record(one, wall_s / max(own_s, 1e-9)) for one in found]

    def _judge(self, candidate: Candidate) -> Record | None:
        self.report("judging the quality of", candidate)
        found = self.laboratory.quality(candidate)
        return None if found is None else found.record()

    def _compare(self, candidate: Candidate) -> Record:
        self.report("comparing the text of", candidate)
        return self.laboratory.interaction(candidate).record()

    @property
    def guard(self) -> DriftGuard:
        """Its reference speed is noted down: figures of an earlier run stay comparable."""
        if self._guard is None:
            self.report("finding the baseline's speed", None)
            fresh: list[DriftGuard] = []

            def first() -> Record:
                fresh.append(DriftGuard(self.laboratory.pulse))
                return {"tokens_per_s": fresh[0].reference}

            reference = self._entry("baseline", first)["tokens_per_s"]
            self._guard = fresh[0] if fresh else DriftGuard(self.laboratory.pulse, reference)
        return self._guard


def _quality(record: Record) -> Quality | None:
    """None for random weights."""
    return None if record["quality"] is None else Quality.from_record(record["quality"])


def _heat_key(candidates: Sequence[Candidate], share: float, name: str) -> str:
    keys = hashlib.sha256(" ".join(one.key for one in candidates).encode()).hexdigest()[:24]
    return f"heat {share:g} {name} {keys}"


def _record(outcome: SteadyOutcome, stretch: float) -> Record:
    """`stretch`: seconds that passed for a second of a run, what it costs beside itself included."""
    measured, failure = outcome.measurement, outcome.failure
    if measured is not None and not (math.isfinite(measured.tokens_per_s) and measured.tokens_per_s > 0):
        measured, failure = None, "its figures are not finite"
    return {
        "measurement": None if measured is None else {**measured.record(), "seconds": measured.seconds * stretch},
        "failure": failure,
        "drift": outcome.drift,
        "num_discarded": outcome.num_discarded,
    }
