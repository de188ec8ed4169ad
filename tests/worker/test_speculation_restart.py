"""The engine dies while guesses are verified: the streams go on with the bits of plain decoding."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import replace

import pytest
from worker_jobs import Answer, make_jobs, num_tokens, read, running, undisturbed, until

from vivace.core.config import EngineConfig
from vivace.core.speculation import SpeculativeConfig

SEED = 20261203
PLAIN = EngineConfig(num_kv_blocks=48, max_model_len=160, max_num_seqs=8, seed=7)  # few blocks: some are preempted
METHODS = [
    SpeculativeConfig("ngram", adaptive=False),
    SpeculativeConfig("draft_model", "embedded-draft", adaptive=False),
    SpeculativeConfig("medusa", num_speculative_tokens=8, adaptive=False),
]


@pytest.mark.parametrize("speculation", METHODS, ids=lambda one: one.method)
def test_killed_while_it_guesses(speculation: SpeculativeConfig) -> None:
    jobs = make_jobs(12, seed=SEED)
    expected = undisturbed(PLAIN, jobs)
    kill_at = random.Random(SEED).randint(1, sum(map(num_tokens, expected.values())) // 2)

    async def serve() -> dict[str, Answer]:
        seen = 0
        async with running(replace(PLAIN, speculative_config=speculation)) as client:

            def count(events: list[object]) -> None:
                nonlocal seen
                before, seen = seen, seen + len(events)
                if before < kill_at <= seen:
                    assert client.engine_pid is not None
                    os.kill(client.engine_pid, signal.SIGKILL)

            answers = await asyncio.gather(*(read(client.submit(job), count) for job in jobs))
            await until(lambda: client.gauges.num_restarts == 1 and client.state == "ready")
            assert client.gauges.num_used_blocks == 0
            return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    assert asyncio.run(serve()) == expected, f"seed {SEED}"
