"""Everything that is measured goes through here: noted down, protected from drift, within the budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.core.errors import ConfigError
from vivace.optimize.candidate import Candidate
from vivace.optimize.drift import DriftGuard
from vivace.optimize.interval import Interval, ratio_interval
from vivace.optimize.laboratory import Laboratory
from vivace.optimize.measurement import Interaction, Measurement, Quality
from vivace.optimize.notebook import Notebook, Record
from vivace.optimize.time_budget import TimeBudget

Report = Callable[[str, Candidate | None], None]
RANDOM_WEIGHTS: Record = {}
REPEATING_UNTIL = 0.9  # of the time budget: behind it what drift spoiled stays so, and says so


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of a candidate, or why there is none."""

    candidate: Candidate
    share: float
    measurement: Measurement | None
    failure: str = ""
    drift: float = 0.0
    num_discarded: int = 0

    def record(self) -> Record:
        return {
            "measurement": None if self.measurement is None else self.measurement.record(),
            "failure": self.failure,
            "drift": self.drift,
            "num_discarded": self.num_discarded,
        }

    @classmethod
    def from_record(cls, candidate: Candidate, share: float, record: Record) -> Trial:
        measured = record["measurement"]
        return cls(
            candidate,
            share,
            None if measured is None else Measurement.from_record(measured),
            record["failure"],
            record["drift"],
            record["num_discarded"],
        )


@dataclass(slots=True)
class Trials:
    """The measuring side with a memory. `runs` holds whole runs of the workload, by candidate, in repetitions."""

    laboratory: Laboratory
    notebook: Notebook
    budget: TimeBudget
    report: Report
    runs: dict[Candidate, list[Trial]] = field(default_factory=dict)
    partial: list[Trial] = field(default_factory=list)
    is_over: bool = False  # nothing is measured any more: what is not known stays so
    _guard: DriftGuard | None = None
    _judging_s: float = 0.0  # what the last judgement took
    _costs: dict[Candidate, float] = field(default_factory=dict)  # seconds of a whole run

    def run(self, candidate: Candidate, share: float = 1.0, repetition: int = 0) -> Trial:
        """Measured now or known already."""
        key = f"trial {share:g} {repetition} {candidate.key}"
        trial = Trial.from_record(candidate, share, self.notebook.entry(key, lambda: self._measure(candidate, share)))
        if share < 1.0:
            self.partial.append(trial)
        else:
            repetitions = self.runs.setdefault(candidate, [])
            if len(repetitions) <= repetition:
                repetitions.append(trial)
        if trial.measurement is not None:
            self._costs[candidate] = trial.measurement.seconds / share
        return trial

    def quality(self, candidate: Candidate) -> Quality | None:
        """Of the candidate's weights and cache. None for random weights."""
        key = "quality " + " ".join(candidate.logits_key)
        found = self.notebook.entry(key, lambda: self._judge(candidate))
        return Quality.from_record(found) if found else None

    def may_judge(self, candidate: Candidate, until: float) -> bool:
        """Whether its quality is known, or there is time to find it out."""
        if self.notebook.known("quality " + " ".join(candidate.logits_key)) is not None:
            return True
        return not self.is_over and self.budget.allows(self._judging_s, until)

    def known_quality(self, candidate: Candidate) -> Quality | None:
        """As `quality`, but None where it was not judged."""
        found = self.notebook.known("quality " + " ".join(candidate.logits_key))
        return Quality.from_record(found) if found else None

    def interaction(self, candidate: Candidate) -> Interaction:
        key = f"interaction {candidate.key}"
        return Interaction.from_record(self.notebook.entry(key, lambda: self._compare(candidate)))

    def is_known(self, candidate: Candidate, share: float = 1.0, repetition: int = 0) -> bool:
        return self.notebook.known(f"trial {share:g} {repetition} {candidate.key}") is not None

    def affords(self, candidate: Candidate, until: float, share: float = 1.0, repetition: int = 0) -> bool:
        """Whether there is time for it before the share `until` of the budget is over."""
        return self.is_known(candidate, share, repetition) or self.budget.allows(
            self.cost_s(candidate) * share, until
        )

    def cost_s(self, candidate: Candidate) -> float:
        """Seconds that a whole run of the candidate will take, pulses included."""
        known = self._costs.get(candidate)
        if known is not None:
            return known
        return statistics.median(self._costs.values()) if self._costs else 0.0

    def measurement(self, candidate: Candidate) -> Measurement | None:
        """The median of its whole runs: that with the middle throughput."""
        whole = [one.measurement for one in self.runs.get(candidate, ()) if one.measurement is not None]
        whole.sort(key=lambda one: one.tokens_per_s)
        return whole[(len(whole) - 1) // 2] if whole else None

    def ratio(self, candidate: Candidate, baseline: Candidate, figure: Callable[[Measurement], float]) -> Interval:
        """How much larger a figure is than the baseline's, repetition by repetition, with a 95% interval; a single
        run is compared with the median of the baseline's."""
        own_runs, other_runs = self.runs.get(candidate, ()), self.runs.get(baseline, ())
        middle = self.measurement(baseline)
        if len(own_runs) == 1 and own_runs[0].measurement is not None and middle is not None:
            return ratio_interval([figure(own_runs[0].measurement) / figure(middle)])
        ratios = [
            figure(own.measurement) / figure(other.measurement)
            for own, other in zip(own_runs, other_runs, strict=False)
            if own.measurement is not None and other.measurement is not None and figure(other.measurement) > 0
        ]
        return ratio_interval(ratios)

    @property
    def num_discarded(self) -> int:
        """Measurements that drift spoiled."""
        return sum(one.num_discarded for runs in (*self.runs.values(), self.partial) for one in runs)

    def _measure(self, candidate: Candidate, share: float) -> Record:
        self.report("measuring", candidate)
        started = self.laboratory.clock()
        try:
            steady = self.guard.measure(
                lambda: self.laboratory.measure(candidate, share), lambda: self.budget.allows(0.0, REPEATING_UNTIL)
            )
        except ConfigError as error:
            return Trial(candidate, share, None, str(error)).record()
        record = Trial(candidate, share, steady.measurement, "", steady.drift, steady.num_discarded).record()
        if not all(math.isfinite(value) for value in (steady.measurement.tokens_per_s, steady.drift)):
            return Trial(candidate, share, None, "its figures are not finite").record()
        record["measurement"]["seconds"] = self.laboratory.clock() - started
        return record

    def _judge(self, candidate: Candidate) -> Record:
        self.report("judging the quality of", candidate)
        self.guard.pause()
        started = self.laboratory.clock()
        found = self.laboratory.quality(candidate)
        self._judging_s = self.laboratory.clock() - started
        return RANDOM_WEIGHTS if found is None else found.record()

    def _compare(self, candidate: Candidate) -> Record:
        self.report("comparing the text of", candidate)
        self.guard.pause()
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

            reference = self.notebook.entry("baseline", first)["tokens_per_s"]
            self._guard = fresh[0] if fresh else DriftGuard(self.laboratory.pulse, reference)
        return self._guard
