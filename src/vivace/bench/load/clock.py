"""The clock of a run, and waiting for a moment of it to within 0.1 ms."""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import Protocol

COARSE_S = 0.0015  # event loops wake at whole milliseconds, up to one too late: the last stretch is spent awake


class Clock(Protocol):
    """Seconds since the start of the run."""

    def now(self) -> float: ...
    async def sleep_until(self, moment: float) -> None: ...


class MonotonicClock:
    """Is at 0 `lead_s` after `start`.

    One task is awake for all that wait for their last stretch: a hundred awake at once would each take a turn of the
    event loop before the first of them could send.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._num_alarms = 0

    def start(self, lead_s: float = 0.0) -> None:
        self._start = time.perf_counter() + lead_s

    def now(self) -> float:
        return time.perf_counter() - self._start

    async def sleep_until(self, moment: float) -> None:
        """Returns at once where the moment is over. Others have their turn meanwhile, and sockets are read."""
        left_s = moment - self.now()
        if left_s > COARSE_S:
            await asyncio.sleep(left_s - COARSE_S)
        if self.now() < moment:
            await self._alarm(moment)

    def _alarm(self, moment: float) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._num_alarms += 1
        if not self._alarms:
            loop.call_soon(self._ring)
        heapq.heappush(self._alarms, (moment, self._num_alarms, future))
        return future

    def _ring(self) -> None:
        """Once a turn of the event loop, until nobody waits."""
        now = self.now()
        while self._alarms and self._alarms[0][0] <= now:
            future = heapq.heappop(self._alarms)[2]
            if not future.done():
                future.set_result(None)
        if self._alarms:
            asyncio.get_running_loop().call_soon(self._ring)
