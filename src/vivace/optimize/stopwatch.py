"""The time of one run among several that take turns on a machine."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stopwatch:
    """Runs between `start` and `stop` alone. It leaps over time in which an engine would have nothing to do: waiting
    for the next arrival says nothing about speed, and need not be waited for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = self._clock()

    def stop(self) -> None:
        self._seconds = self.read()
        self._since = None

    def read(self) -> float:
        """Seconds that were counted so far."""
        return self._seconds if self._since is None else self._seconds + self._clock() - self._since

    def leap(self, seconds: float) -> None:
        self._seconds += seconds
