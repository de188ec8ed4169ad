"""What a step costs by the number of its rows, as measured here and now."""

from __future__ import annotations

from bisect import insort
from collections import deque

REMEMBERED = 15  # steps of one size: their median stands a preempted thread and follows a growing context
TOLERANCE = 0.02  # of a median: smaller moves are noise, for which the table is not made again
FINE_ROWS = 8
SLOPE_UNSEEN = 0.01  # of a step for each further row, where one size was measured: hopeful, so that it is tried


class StepCost:
    """Medians of measured seconds, linear between measured sizes and beyond them, never falling with the rows.

    Reading is an index into a list: the rule reads some hundred entries a step. `is_coarse`: sizes above 8 rows are
    measured together, 4 for each doubling; else the best of many sizes would be the one that was measured by luck.
    `stride`: of so many steps of a size that is well known one is taken in, for that takes 1.4 us.
    """

    def __init__(self, *, is_coarse: bool = False, stride: int = 1) -> None:
        self._is_coarse = is_coarse
        self._stride = stride
        self._num_skipped = 0
        self._recent: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}  # as in the table
        self._sizes: list[int] = []
        self._table: list[float] = []

    def observe(self, num_rows: int, seconds: float) -> None:
        if self._is_coarse and num_rows > FINE_ROWS:
            width = 1 << num_rows.bit_length() - 3
            seconds *= (num_rows // width * width) / num_rows
            num_rows = num_rows // width * width
        recent = self._recent.get(num_rows)
        if recent is None:
            recent = self._recent[num_rows] = deque(maxlen=REMEMBERED)
            insort(self._sizes, num_rows)
        if len(recent) == REMEMBERED and self._num_skipped < self._stride - 1:
            self._num_skipped += 1
            return
        self._num_skipped = 0
        recent.append(seconds)
        median = sorted(recent)[len(recent) // 2]
        known = self._medians.get(num_rows)
        if known is None or abs(median - known) > TOLERANCE * known:
            self._medians[num_rows] = median
            self._table = []

    def knows(self, num_rows: int) -> bool:
        """Whether a step of so few rows, or fewer, was measured."""
        return bool(self._sizes) and self._sizes[0] <= num_rows

    def seconds(self, num_rows: int) -> float:
        """Of a step of so many rows; 0 of none, and of all as long as nothing was measured."""
        return self.table(num_rows)[num_rows]

    def table(self, num_rows: int) -> list[float]:
        """Seconds by rows, from 0 to `num_rows` at least. Not to be changed."""
        if num_rows >= len(self._table):
            self._table = self._interpolated(max(num_rows, 2 * len(self._table)))
        return self._table

    def _interpolated(self, num_rows: int) -> list[float]:
        if not self._sizes:
            return [0.0] * (num_rows + 1)
        size, seconds = self._sizes[0], self._medians[self._sizes[0]]
        table, slope = [0.0, *[seconds] * size], seconds * SLOPE_UNSEEN
        for larger in self._sizes[1:]:
            higher = max(seconds, self._medians[larger])
            slope = (higher - seconds) / (larger - size)
            table.extend([seconds + slope * step for step in range(1, larger - size + 1)])
            size, seconds = larger, higher
        table.extend([seconds + slope * step for step in range(1, num_rows - size + 1)])
        return table
