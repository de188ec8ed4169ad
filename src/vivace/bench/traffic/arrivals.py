"""When requests arrive in an open loop: gaps of a gamma process, at one rate or at one that climbs.

`burstiness` is the gamma distribution's shape, as vLLM's benchmark has it: gaps have the mean 1/rate and the
coefficient of variation 1/sqrt(burstiness). 1 is a Poisson process, less comes in bursts, more is more even, infinite
is constant. The first request arrives at 0. Gaps are not scaled to fit a duration: they are the process itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Literal

from vivace.core.errors import ConfigError

RampShape = Literal["linear", "exponential"]
RAMP_SHAPES: tuple[RampShape, ...] = ("linear", "exponential")


@dataclass(frozen=True, slots=True)
class Ramp:
    """A rate that climbs (or falls) over time from `start_rate` to the rate of the traffic, in requests a second."""

    start_rate: float
    shape: RampShape = "linear"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_rate) and self.start_rate > 0):
            raise ConfigError(f"a ramp starts at a rate above 0 requests a second, not {self.start_rate}")
        if self.shape not in RAMP_SHAPES:
            raise ConfigError(f"a ramp is {' or '.join(RAMP_SHAPES)}, not {self.shape!r}")

    def time_of(self, work: float, total: float, end_rate: float) -> float:
        """When `work` requests are due, of `total` in the whole ramp: the inverse of the rate's integral. Behind the
        ramp the rate stays."""
        rate, duration = self.start_rate, self.duration_s(total, end_rate)
        if work >= total:
            return duration + (work - total) / end_rate
        if math.isclose(rate, end_rate, rel_tol=1e-9):
            return work / rate
        if self.shape == "linear":
            slope = (end_rate - rate) / duration
            return 2 * work / (rate + math.sqrt(rate * rate + 2 * slope * work))
        growth = math.log(end_rate / rate) / duration
        return math.log1p(work * growth / rate) / growth

    def duration_s(self, total: float, end_rate: float) -> float:
        """How long the ramp takes to send `total` requests."""
        rate = self.start_rate
        if self.shape == "linear" or math.isclose(rate, end_rate, rel_tol=1e-9):
            return 2 * total / (rate + end_rate)
        return total * math.log(end_rate / rate) / (end_rate - rate)


def arrivals(
    count: int, rate: float, *, burstiness: float = 1.0, ramp: Ramp | None = None, seed: int = 0
) -> list[float]:
    """Moments of `count` requests in seconds, in order, the first at 0. `rate` is per second; infinite: all at 0.

    Raises `ConfigError` for a rate or burstiness that is not above 0.
    """
    if not rate > 0:
        raise ConfigError(f"a rate must be above 0 requests a second, not {rate}")
    if not burstiness > 0:
        raise ConfigError(f"burstiness must be above 0 (1: Poisson, below: bursts), not {burstiness}")
    if math.isinf(rate):
        return [0.0] * count
    work = _unit_arrivals(count, burstiness, Random(f"{seed} arrivals"))
    if ramp is None:
        return [moment / rate for moment in work]
    return [ramp.time_of(moment, count, rate) for moment in work]


def _unit_arrivals(count: int, burstiness: float, random: Random) -> list[float]:
    """Arrivals at one request a second."""
    if math.isinf(burstiness):
        return [float(index) for index in range(count)]
    gaps = (random.gammavariate(burstiness, 1 / burstiness) for _ in range(count - 1))
    return list(accumulate(gaps, initial=0.0))[:count]
