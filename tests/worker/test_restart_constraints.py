"""Texts under a constraint go on within it when the engine was killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal

from worker_jobs import Answer, read, running, undisturbed, until

from vivace.core.config import EngineConfig
from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs
from vivace.worker.job import Job

SEED = 20261127
CONFIG = EngineConfig(max_num_seqs=8, max_model_len=256)
OUTPUTS = [
    StructuredOutputs("regex", "([a-z]{3,8} ){6}[0-9]{4}"),
    StructuredOutputs("json_schema", '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'),
    StructuredOutputs("choice", '["a stormy night in the harbour", "a stormy night in the hills"]'),
    None,
]


def jobs() -> list[Job]:
    return [
        Job(
            f"job-{number}",
            [200 + number, 300, 400],
            SamplingParams(
                n=1 + number % 3, temperature=1.0, seed=number, max_tokens=40, logprobs=1, structured_outputs=outputs
            ),
        )
        for number, outputs in enumerate(OUTPUTS * 2)
    ]


def test_constrained_streams_survive_kills_to_the_bit() -> None:
    chance = random.Random(SEED)
    expected = undisturbed(CONFIG, jobs())

    async def serve() -> None:
        async with running(CONFIG) as client:
            for number in range(3):
                left = chance.randint(1, 60)

                def count(events: list[TokenEvent]) -> None:
                    nonlocal left
                    before, left = left, left - len(events)
                    if before > 0 >= left:
                        assert client.engine_pid is not None
                        os.kill(client.engine_pid, signal.SIGKILL)

                served: list[Answer] = await asyncio.gather(*(read(client.submit(job), count) for job in jobs()))
                assert {job.request_id: answer for job, answer in zip(jobs(), served, strict=True)} == expected
                # Before it is seen, the next round's requests would be in this engine too: suspects of two deaths.
                await until(lambda number=number: client.gauges.num_restarts == number + 1)  # type: ignore[misc]

    asyncio.run(serve())
