"""Embeddings out of the engine's process: the same bits as in this one, also after the engine was killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest
from worker_jobs import DEADLINE_S, until

from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.engine.llm import LLM
from vivace.worker.job import Job
from vivace.worker.stream import TokenStream
from vivace.worker.supervisor import EngineClient

SEED = 20261122
PARAMS = SamplingParams(max_tokens=0, seed=0)
OPTIONS = {"max_model_len": 256, "max_num_seqs": 4, "max_num_batched_tokens": 16, "num_threads": 1}


def prompts(count: int) -> list[list[int]]:
    generator = random.Random(SEED)
    return [[generator.randrange(4096) for _ in range(generator.randint(60, 200))] for _ in range(count)]


async def embedding(stream: TokenStream) -> list[float] | None:
    events = [event for batch in [batch async for batch in stream] for event in batch]
    assert [(event.token, event.finish) for event in events] == [(None, "stop")]
    return stream.embedding


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_equal_those_of_this_process_even_over_a_crash(pooling: Pooling) -> None:
    requests = prompts(6)
    expected = [one.embedding for one in LLM(**OPTIONS).embed(requests, pooling=pooling, normalize=False)]

    async def run() -> list[list[float] | None]:
        client = EngineClient(EngineConfig(**OPTIONS))
        await client.start()
        try:
            streams = [
                client.submit(Job(str(i), prompt, PARAMS, pooling=pooling)) for i, prompt in enumerate(requests)
            ]
            vectors = [await embedding(streams[0])]
            assert client.engine_pid is not None
            os.kill(client.engine_pid, signal.SIGKILL)
            vectors += await asyncio.gather(*(embedding(stream) for stream in streams[1:]))
            await until(lambda: client.gauges.num_restarts == 1)
            assert client.gauges.num_used_blocks == 0
            return vectors
        finally:
            await client.close()

    assert asyncio.run(asyncio.wait_for(run(), DEADLINE_S)) == expected
