"""Watches the generator while it runs: how late its event loop is, how much of its core it uses."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from vivace.bench.generator_health import GeneratorLoad
from vivace.bench.statistics import distribution

PERIOD_S = 0.020


class GeneratorWatch:
    """A task beside the load."""

    def __init__(self) -> None:
        self._lags_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._began = (0.0, 0.0)

    async def __aenter__(self) -> GeneratorWatch:
        self._began = self._now()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def load(self) -> GeneratorLoad:
        """Since it began."""
        spent = [now - before for now, before in zip(self._now(), self._began, strict=True)]
        wall_s, thread_s = spent
        lags = distribution([(lag,) for lag in self._lags_ms])
        return GeneratorLoad(
            loop_lag_p99_ms=lags.p99.value if lags is not None else 0.0,
            loop_lag_max_ms=lags.max if lags is not None else 0.0,
            cpu_share=min(1.0, thread_s / wall_s) if wall_s > 0 else 0.0,
        )

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._lags_ms.append(1e3 * max(0.0, time.perf_counter() - due))

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()
