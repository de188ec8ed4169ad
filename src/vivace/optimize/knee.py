"""Goodput: how many requests a second may come, at random, so that they keep their objectives.

The greatest rate at which `GOOD_SHARE` of the requests do (as Zhong et al., DistServe, 2024, count it), found by
bisection. Every probe has the same arrivals, stretched, so that neighbouring rates differ by the rate alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

GOOD_SHARE = 0.9
BISECTIONS = 4
ABOVE = 1.3  # of a closed loop's rate, which has its users' waiting at the end in it: where the search begins


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests that came at `rate_per_s`: the share of them that was good, and how many a second that were."""

    rate_per_s: float
    good_share: float
    good_per_s: float


RateRun = Generator[float, None, Probe]  # yields the share that is done


def find_knee(run: Callable[[float], RateRun], closed_rate: float) -> RateRun:
    """The knee, interpolated between the last rate that kept the objectives and the first that did not. A rate of 0
    where not even the lowest did, with the share that was good there. `closed_rate`: requests a second of a closed
    loop."""
    high = yield from _probe(run, ABOVE * closed_rate, 0)
    if high.good_share >= GOOD_SHARE:
        return high
    low: Probe | None = None
    for number in range(1, BISECTIONS + 1):
        floor = 0.0 if low is None else low.rate_per_s
        found = yield from _probe(run, (floor + high.rate_per_s) / 2, number)
        if found.good_share >= GOOD_SHARE:
            low = found
        else:
            high = found
    if low is None:
        return Probe(0.0, high.good_share, 0.0)
    part = (low.good_share - GOOD_SHARE) / max(1e-9, low.good_share - high.good_share)
    rate = low.rate_per_s + part * (high.rate_per_s - low.rate_per_s)
    return Probe(rate, GOOD_SHARE, low.good_per_s * rate / low.rate_per_s * GOOD_SHARE / low.good_share)


def _probe(run: Callable[[float], RateRun], rate_per_s: float, number: int) -> RateRun:
    steps = run(rate_per_s)
    while True:
        try:
            share = next(steps)
        except StopIteration as end:
            found: Probe = end.value
            return found
        yield (number + share) / (BISECTIONS + 1)
