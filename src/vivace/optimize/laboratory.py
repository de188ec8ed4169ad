"""The measuring side, as the search sees it. The engine stands behind one, a model of a machine behind another."""

from __future__ import annotations

from typing import Protocol

from vivace.optimize.candidate import Candidate
from vivace.optimize.measurement import Forecast, Interaction, Measurement, Quality


class Laboratory(Protocol):
    """Everything costs time on its clock. `share` is the part of the workload that is run, from 0 to 1."""

    def clock(self) -> float:
        """Seconds that only go up."""

    def measure(self, candidate: Candidate, share: float) -> Measurement:
        """Raises `ConfigError` where the candidate cannot run."""

    def pulse(self) -> float:
        """The speed of a fixed baseline now, in tokens a second: what drift is told by."""

    def quality(self, candidate: Candidate) -> Quality | None:
        """None where text has no quality to lose: random weights."""

    def interaction(self, candidate: Candidate) -> Interaction:
        """Does the candidate write what its weights alone would."""

    def forecast(self, candidate: Candidate) -> Forecast:
        """Takes microseconds: the whole space is asked."""
