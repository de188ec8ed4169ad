"""A run's view of the server: its metrics, its memory, the machine's energy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vivace.bench.load.client import HttpClient
from vivace.bench.load.clock import MonotonicClock
from vivace.bench.load.resources import EnergyCounter, ProcessFamily, listening_process
from vivace.bench.load.scrape import memory_parts, server_sample
from vivace.bench.load.target import Target
from vivace.bench.records import ServerSample
from vivace.bench.server_summary import MemoryParts

SAMPLE_S = 1.0


class Observer:
    """Samples of the server, on a connection of its own. A server without /metrics is watched from outside."""

    def __init__(self, target: Target, clock: MonotonicClock, on_sample: Callable[[ServerSample], None]) -> None:
        self._clock = clock
        self._on_sample = on_sample
        self._client = HttpClient(target.address, clock.now, api_key=target.api_key, tls=target.tls)
        is_local = target.address.is_local
        process = target.process or (listening_process(target.address.port) if is_local else None)
        self._processes = None if process is None else ProcessFamily(process)
        self._energy = EnergyCounter() if is_local else None
        self.memory = MemoryParts()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            await self.sample()

    async def sample(self) -> None:
        """Its time is that at which it was asked for."""
        asked_s, text = self._clock.now(), ""
        try:
            async with asyncio.timeout(SAMPLE_S):  # 3.11's wait_for loses a cancel beside the answer
                response = await self._client.fetch("GET", "/metrics")
            if response.status == 200:
                text = response.body.decode("utf-8", "replace")
        except (OSError, TimeoutError):
            pass  # a busy server is asked again next time; one that is gone is the conductor's to find
        if text:
            self.memory = memory_parts(text)
        memory = None if self._processes is None else self._processes.resident_bytes()
        energy = self._energy.counters() if self._energy is not None else {}
        self._on_sample(server_sample(text, asked_s, memory, energy))

    def close(self) -> None:
        self._client.close()
