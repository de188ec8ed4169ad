"""The clock of a run, and waiting for a moment of it to within 0.1 ms."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

COARSE_S = 0.0015  # event loops wake at whole milliseconds, up to one too late: the last stretch is spent awake


class Clock(Protocol):
    """Seconds since the start of the run."""

    def now(self) -> float: ...
    async def sleep_until(self, moment: float) -> None: ...


class MonotonicClock:
    """Is at 0 `lead_s` after `start`. `awake_s` is the processor time that waiting took: it is not load."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.awake_s = 0.0

    def start(self, lead_s: float = 0.0) -> None:
        self._start = time.perf_counter() + lead_s

    def now(self) -> float:
        return time.perf_counter() - self._start

    async def sleep_until(self, moment: float) -> None:
        """Returns at once where the moment is over. While it is awake, other tasks and sockets have their turn."""
        left_s = moment - self.now()
        if left_s > COARSE_S:
            await asyncio.sleep(left_s - COARSE_S)
        began = self.now()
        while self.now() < moment:
            await asyncio.sleep(0)
        self.awake_s += self.now() - began
