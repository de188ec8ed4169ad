"""The front's own lag."""

from __future__ import annotations

import asyncio

from virtual_server import VirtualTimeLoop, run_virtually

from vivace.serve.metrics.event_loop_lag import EventLoopLag


def test_a_loop_that_was_held_up_shows_it() -> None:
    async def main() -> EventLoopLag:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        lag = EventLoopLag()
        lag.start()
        await asyncio.sleep(0.9)
        loop.call_at(loop.time() + 0.05, loop.hold_up, 0.4)  # 0.05 s before a measurement is due
        await asyncio.sleep(0.06)
        await asyncio.sleep(0.3)
        lag.stop()
        await asyncio.sleep(10.0)
        return lag

    lag = run_virtually(main())
    assert sum(lag.lag_s.counts) == 5
    assert 0.34 <= lag.lag_s.sum <= 0.36
