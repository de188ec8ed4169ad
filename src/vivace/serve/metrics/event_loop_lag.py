"""How late the front's event loop runs what is due: its own overload, before any request shows it."""

from __future__ import annotations

import asyncio

from vivace.serve.metrics.histogram import LAG_S, Histogram

INTERVAL_S = 0.25


class EventLoopLag:
    """Measures four times a second while it runs."""

    def __init__(self) -> None:
        self.lag_s = Histogram(LAG_S)
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def num_tasks(self) -> int:
        """Tasks of the loop that have not ended: what a finished request must not leave behind."""
        return len(asyncio.all_tasks(self._loop)) if self._loop is not None else 0

    def start(self) -> None:
        """Begin, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._schedule(self._loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + INTERVAL_S
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.lag_s.observe(max(loop.time() - due, 0.0))
        self._schedule(loop)
