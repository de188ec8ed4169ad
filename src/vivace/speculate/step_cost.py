"""What a step costs by the number of its rows, as measured here and now."""

from __future__ import annotations

import statistics
from collections import deque

import numpy as np
from numpy.typing import ArrayLike, NDArray

REMEMBERED = 15  # steps of one size: their median stands a preempted thread and follows a growing context
SLOPE_UNSEEN = 0.01  # of a step for each row beyond those measured: hopeful, so that it is tried


class StepCost:
    """Medians of measured seconds, linear between measured sizes, never falling with the rows."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._curve: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def observe(self, num_rows: int, seconds: float) -> None:
        self._seconds.setdefault(num_rows, deque(maxlen=REMEMBERED)).append(seconds)
        self._curve = None

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._seconds)

    def seconds(self, num_rows: ArrayLike) -> NDArray[np.float64]:
        """Of steps of so many rows; 1 for all of them as long as nothing was measured."""
        rows = np.asarray(num_rows, np.float64)
        if not self._seconds:
            return np.ones_like(rows)
        sizes, medians = self._measured()
        beyond = np.maximum(rows - sizes[-1], 0.0)
        seconds: NDArray[np.float64] = np.interp(rows, sizes, medians) + medians[-1] * SLOPE_UNSEEN * beyond
        return seconds

    def _measured(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._curve is None:
            sizes = sorted(self._seconds)
            medians = [statistics.median(self._seconds[size]) for size in sizes]
            self._curve = np.array(sizes, np.float64), np.maximum.accumulate(medians)
        return self._curve
