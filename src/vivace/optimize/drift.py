"""Machines slow down and recover: what was measured meanwhile is discarded, and the rest is made comparable.

A fixed baseline is run between measurements. Where its speed before and after a measurement differs by more than
`TOLERANCE`, the measurement is repeated; else its figures are divided by the baseline's mean speed around it. So two
candidates are compared by their ratios to neighbouring baselines, however far apart in time they ran.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from vivace.optimize.measurement import Measurement

TOLERANCE = 0.15
MAX_ATTEMPTS = 3
FIRST_PULSES = 3


@dataclass(frozen=True, slots=True)
class SteadyMeasurement:
    """`measurement` is scaled to the baseline's reference speed; `drift` is what the baseline moved during it."""

    measurement: Measurement
    drift: float
    num_discarded: int

    @property
    def is_steady(self) -> bool:
        return self.drift <= TOLERANCE


class DriftGuard:
    """Takes measurements between two pulses of the baseline. `reference` is the speed that figures are scaled to."""

    def __init__(self, pulse: Callable[[], float], reference: float | None = None) -> None:
        self._pulse = pulse
        self._last: float | None = None
        self.reference = reference if reference is not None else self._first()
        self.num_discarded = 0

    def measure(
        self, run: Callable[[], Measurement], may_repeat: Callable[[], bool] = lambda: True
    ) -> SteadyMeasurement:
        """The first run that the baseline did not move around, else the one during which it moved least. A spoiled
        run is repeated while `may_repeat` says so."""
        attempts: list[SteadyMeasurement] = []
        before = self._last if self._last is not None else self._pulse()
        while len(attempts) < MAX_ATTEMPTS:
            measured = run()
            after = self._pulse()
            drift = abs(after - before) / min(after, before)
            scaled = measured.scaled(self.reference / ((before + after) / 2))
            attempts.append(SteadyMeasurement(scaled, drift, len(attempts)))
            before = self._last = after
            if attempts[-1].is_steady or not may_repeat():
                break
        best = min(attempts, key=lambda one: one.drift)
        self.num_discarded += len(attempts) - 1
        return SteadyMeasurement(best.measurement, best.drift, len(attempts) - 1)

    def pause(self) -> None:
        """Time passes without measurements: the last pulse says nothing about the next run."""
        self._last = None

    def _first(self) -> float:
        return statistics.median(self._pulse() for _ in range(FIRST_PULSES))
