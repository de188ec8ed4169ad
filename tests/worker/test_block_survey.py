"""How often the engine is asked for its blocks, and that it answers, idle or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from worker_jobs import make_jobs, read, running, tiny_config, until

from vivace.schedule.block_map import BlockMap
from vivace.worker.block_survey import INTERVAL_S, PATIENCE_S, BlockSurvey


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_asks_once_a_second_and_not_again_before_the_answer() -> None:
    clock = Clock()
    survey = BlockSurvey(clock)
    assert survey.is_due()
    clock.now = 2 * INTERVAL_S
    assert not survey.is_due()
    survey.take(BlockMap(1, 1, b"\xff\0\0\0"))
    assert survey.is_due()
    survey.take(BlockMap(2, 1, b""))
    clock.now += INTERVAL_S / 2
    assert not survey.is_due()
    assert survey.latest == BlockMap(2, 1, b"")


def test_an_answer_that_never_came_is_asked_for_again() -> None:
    clock = Clock()
    survey = BlockSurvey(clock)
    assert survey.is_due()
    clock.now = PATIENCE_S
    assert survey.is_due()
    survey.forget()
    assert survey.latest is None


def test_the_engine_answers_when_it_is_idle_and_after_work(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tiny_config(tmp_path)) as client:
            assert client.block_map() is None  # asked for
            await until(lambda: client.block_map() is not None)
            first = client.block_map()
            assert first is not None
            assert first.shares == b"\xff\0\0\0" * 256
            await asyncio.gather(*(read(client.submit(job)) for job in make_jobs(4, seed=3)))
            await until(lambda: client.block_map() != first)
            picture = client.block_map()
            assert picture is not None
            assert sum(share == 255 for share in picture.shares[1::4]) == client.gauges.num_cached_blocks > 0

    asyncio.run(main())
