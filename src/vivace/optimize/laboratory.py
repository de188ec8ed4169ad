"""The measuring side, as the search sees it. The engine stands behind one, a model of a machine behind another."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vivace.optimize.candidate import Candidate
from vivace.optimize.fusion import Fusion
from vivace.optimize.measurement import Forecast, Interaction, Measurement, Quality


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one candidate of a heat did, as it ran; or why it did not. `pulses` are the baseline's speeds meanwhile,
    in their order."""

    measurement: Measurement | None
    pulses: tuple[float, ...] = ()
    failure: str = ""

    @property
    def pulse(self) -> float:
        """The baseline's mean speed."""
        return statistics.fmean(self.pulses)

    @property
    def drift(self) -> float:
        """How far the baseline moved from the first third to the last one, as a share of the lower speed."""
        third = max(1, len(self.pulses) // 3)
        early, late = statistics.fmean(self.pulses[:third]), statistics.fmean(self.pulses[-third:])
        return abs(late - early) / min(late, early)


class Laboratory(Protocol):
    """Everything costs time on its clock. `share` is the part of the workload that is run, from 0 to 1."""

    def clock(self) -> float:
        """Seconds that only go up."""

    def measure(self, candidates: Sequence[Candidate], share: float, sweep: bool) -> list[Outcome]:
        """All of them in one heat, in turns of milliseconds with the baseline in between: what else the machine does
        meanwhile hits all alike. With `sweep` each is also asked how many requests a second keep the SLO."""

    def expected_s(self, candidate: Candidate, sweep: bool) -> float:
        """Seconds that a measurement of the whole workload should take, by forecast."""

    def expected_loading_s(self, candidates: Sequence[Candidate]) -> float:
        """Seconds until weights are at hand that are not."""

    @property
    def loading_s(self) -> float:
        """Spent on that so far."""

    def pulse(self) -> float:
        """The speed of a fixed baseline now, in tokens a second: what drift is told by."""

    def quality(self, candidate: Candidate) -> Quality | None:
        """None where text has no quality to lose: random weights."""

    def interaction(self, candidate: Candidate) -> Interaction:
        """Does the candidate write what its weights alone would."""

    def fusion(self, candidate: Candidate) -> Fusion:
        """What fused attention brings with its weights and a 16-bit cache, on a step of the workload's shape."""

    def forecast(self, candidate: Candidate) -> Forecast:
        """Takes microseconds: the whole space is asked."""
