"""Percentiles, defined once for every figure of latency that this package prints.

Of n values in order, the percentile of a share p stands at position p (n - 1), counted from 0; between two values it
is linear. That is definition 7 of Hyndman and Fan (1996), the default of NumPy and so of vLLM's benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def percentiles(values: Iterable[float], shares: Sequence[float]) -> list[float]:
    """Of values in any order, for shares from 0 to 1. Empty without values."""
    ordered = np.sort(np.fromiter(values, np.float64))
    if not ordered.size:
        return []
    return repeated_percentiles(ordered, np.ones(len(ordered), np.int64), shares)


def repeated_percentiles(ordered: Floats, times: NDArray[np.int64], shares: Sequence[float]) -> list[float]:
    """The same of ordered values, each taken so many times; together at least once."""
    until = np.cumsum(times)
    last = int(until[-1]) - 1
    positions = np.array([share * last for share in shares])
    lower = np.floor(positions).astype(np.int64)
    low = ordered[np.searchsorted(until, lower, side="right")]
    high = ordered[np.searchsorted(until, np.minimum(lower + 1, last), side="right")]
    return [float(value) for value in low + (positions - lower) * (high - low)]
