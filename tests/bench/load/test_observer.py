"""The run's view of the server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vivace.bench.load.address import Address
from vivace.bench.load.client import HttpClient, WholeResponse
from vivace.bench.load.clock import MonotonicClock
from vivace.bench.load.observer import Observer
from vivace.bench.load.target import Target

TARGET = Target(Address.parse("http://server.test:8000"))


@pytest.mark.parametrize("num_turns", range(4))
def test_a_cancel_beside_the_answer_is_not_lost(num_turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run cancels the watch: one that went on would never let the run end."""

    async def cancelled() -> bool:
        answer: asyncio.Future[WholeResponse] = asyncio.get_running_loop().create_future()

        async def fetch(*_: Any) -> WholeResponse:
            return await answer

        monkeypatch.setattr(HttpClient, "fetch", fetch)
        observer = Observer(TARGET, MonotonicClock(), lambda _: None)
        watching = asyncio.create_task(observer.sample())
        for _ in range(3):
            await asyncio.sleep(0)
        answer.set_result(WholeResponse())
        for _ in range(num_turns):
            await asyncio.sleep(0)
        asked = watching.cancel()
        await asyncio.wait([watching])
        return watching.cancelled() or not asked

    assert asyncio.run(cancelled())
