"""Percentiles with their intervals: the bootstrap over requests (Efron, 1979), seeded, so a run's figures repeat.

Gaps between tokens of one request resemble each other, so it is requests that are drawn again, each with all its gaps
(cluster bootstrap; Davison and Hinkley, 1997, 3.8); gaps drawn alone would promise intervals that are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.bench.percentiles import Floats, repeated_percentiles

CONFIDENCE = 0.95
MAX_DRAWS, MIN_DRAWS = 1000, 100
DRAWN_VALUES = 1 << 24  # about a second of work: many values get fewer draws
SHARES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95% interval; None where the sample cannot tell, with no request beyond a percentile."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """How samples lie. `count` samples; percentiles as `percentiles` defines them."""

    count: int
    mean: Estimate
    p50: Estimate
    p90: Estimate
    p95: Estimate
    p99: Estimate
    max: float

    def record(self) -> dict[str, object]:
        """For JSON: `mean`, `p50` … as numbers, their intervals as pairs under `interval`."""
        estimates = {name: getattr(self, name) for name in ("mean", *SHARES)}
        return {
            "count": self.count,
            **{name: one.value for name, one in estimates.items()},
            "max": self.max,
            "interval": {name: [one.low, one.high] for name, one in estimates.items() if one.low is not None},
        }


def distribution(groups: Sequence[Sequence[float]], seed: int = 0) -> Distribution | None:
    """Of samples that come in groups, a request's gaps or one latency each; None without samples."""
    kept = [group for group in groups if len(group)]
    if not kept:
        return None
    once, drawn = resampled(kept, seed)
    count, largest = sum(len(group) for group in kept), max(max(group) for group in kept)
    return Distribution(count=count, max=float(largest), **_estimates(once, drawn, len(kept)))


def resampled(groups: Sequence[Sequence[float]], seed: int) -> tuple[list[float], Floats]:
    """Mean and the percentiles of `SHARES` of non-empty groups, and of each draw of them [draws, figures]."""
    values = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups])
    order = np.argsort(values, kind="stable")
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[order]
    ordered = values[order]
    once = _figures(ordered, np.ones(len(ordered), dtype=np.int64))
    generator = np.random.default_rng(seed)
    num_draws = min(MAX_DRAWS, max(MIN_DRAWS, DRAWN_VALUES // len(ordered)))
    drawn = np.empty((num_draws, len(once)))
    for draw in drawn:
        times = np.bincount(generator.integers(len(groups), size=len(groups)), minlength=len(groups))
        draw[:] = _figures(ordered, times[group_of])
    return once, drawn


def _estimates(once: list[float], drawn: Floats, num_groups: int) -> dict[str, Estimate]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    beyond = [1.0, *(1 - share for share in SHARES.values())]
    return {
        name: Estimate(float(value), *((float(low[i]), float(high[i])) if _tells(beyond[i], num_groups) else ()))
        for i, (name, value) in enumerate(zip(("mean", *SHARES), once, strict=True))
    }


def _tells(share_beyond: float, num_groups: int) -> bool:
    """A percentile with no request beyond it has no upper bound; one request has no spread at all."""
    return num_groups > 1 and share_beyond * num_groups >= 1 - 1e-9


def _figures(ordered: Floats, times: NDArray[np.int64]) -> list[float]:
    """Mean and percentiles of the ordered values, each taken so many times."""
    mean = float(ordered @ times) / int(times.sum())
    return [mean, *repeated_percentiles(ordered, times, list(SHARES.values()))]


def share(num_of: int, total: int) -> Estimate:
    """A proportion with Wilson's interval, which holds at 0 and at 1, where a bootstrap has no width."""
    if not total:
        return Estimate(math.nan)
    z = 1.959964  # of the normal distribution, two-sided 95%
    value = num_of / total
    denominator = 1 + z * z / total
    middle = (value + z * z / (2 * total)) / denominator
    half = z * math.sqrt(value * (1 - value) / total + z * z / (4 * total * total)) / denominator
    return Estimate(value, max(0.0, middle - half), min(1.0, middle + half))
