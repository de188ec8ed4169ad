"""Machines slow down and recover: what was measured meanwhile is discarded, and the rest is made comparable.

A fixed baseline runs in between. Where its speed moves by more than `TOLERANCE` during a heat, the heat is repeated;
figures are divided by the baseline's mean speed in it. So two candidates are compared by their ratios to the
baseline, however far apart in time they ran, and better still by heats that they ran together.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from vivace.optimize.laboratory import Outcome
from vivace.optimize.measurement import Measurement

TOLERANCE = 0.3  # those of a heat share what the baseline shows: half of that moves their ratios by 2%
MAX_ATTEMPTS = 3
FIRST_PULSES = 3


@dataclass(frozen=True, slots=True)
class SteadyOutcome:
    """`measurement` is scaled to the baseline's reference speed, None where there is none; `drift` is what the
    baseline moved during it."""

    measurement: Measurement | None
    failure: str
    drift: float
    num_discarded: int


class DriftGuard:
    """`reference` is the speed that figures are scaled to."""

    def __init__(self, pulse: Callable[[], float], reference: float | None = None) -> None:
        self.reference = (
            reference if reference is not None else statistics.median(pulse() for _ in range(FIRST_PULSES))
        )

    def measure(
        self, run: Callable[[], list[Outcome]], may_repeat: Callable[[], bool] = lambda: True
    ) -> list[SteadyOutcome]:
        """The first heat that the baseline did not move in, else the one in which it moved least. A spoiled heat is
        repeated while `may_repeat` says so."""
        attempts: list[list[Outcome]] = []
        while len(attempts) < MAX_ATTEMPTS:
            attempts.append(run())
            if _drift(attempts[-1]) <= TOLERANCE or not may_repeat():
                break
        best = min(attempts, key=_drift)
        return [self._scaled(outcome, len(attempts) - 1) for outcome in best]

    def _scaled(self, outcome: Outcome, num_discarded: int) -> SteadyOutcome:
        if outcome.measurement is None:
            return SteadyOutcome(None, outcome.failure, 0.0, num_discarded)
        scaled = outcome.measurement.scaled(self.reference / outcome.pulse)
        return SteadyOutcome(scaled, "", outcome.drift, num_discarded)


def _drift(outcomes: list[Outcome]) -> float:
    return max((one.drift for one in outcomes if one.measurement is not None), default=0.0)
