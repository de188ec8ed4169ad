"""Constrained requests through the engine's process: the same as in this one, and after its death too."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from worker_jobs import Answer, num_tokens, read, running, undisturbed, until

from vivace.core.config import EngineConfig
from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs, ThinkTags
from vivace.worker.job import Job

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "minLength": 8, "maxLength": 30}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CONSTRAINTS = (
    StructuredOutputs.json_schema(SCHEMA),
    StructuredOutputs("regex", "[a-z ]{40}"),
    StructuredOutputs.choice(["the whale and the sea", "the ship and the whale"]),
    StructuredOutputs("json_object", think=ThinkTags("<think>", "</think>")),
    StructuredOutputs("grammar", "start: LINE{3}\nLINE: /[a-z]{3,9}\\n/"),
    None,
)
CONFIG = EngineConfig(max_num_seqs=8, max_model_len=256)


def jobs() -> list[Job]:
    values: dict[str, Any] = {"max_tokens": 50, "temperature": 1.0, "logprobs": 1}
    return [
        Job(f"job-{n}", [5 + n, 9, 300], SamplingParams(n=1 + n % 2, seed=n, structured_outputs=one, **values))
        for n, one in enumerate(CONSTRAINTS)
    ]


@pytest.fixture(scope="module")
def expected() -> dict[str, Answer]:
    return undisturbed(CONFIG, jobs())


@pytest.mark.parametrize("tokens_until_kill", [None, 1, 60, 200])
def test_the_process_gives_the_same(expected: dict[str, Answer], tokens_until_kill: int | None) -> None:
    assert sum(map(num_tokens, expected.values())) > 200

    async def serve() -> dict[str, Answer]:
        seen = 0
        async with running(CONFIG) as client:

            def count(events: list[TokenEvent]) -> None:
                nonlocal seen
                before, seen = seen, seen + len(events)
                if tokens_until_kill is not None and before < tokens_until_kill <= seen:
                    assert client.engine_pid is not None
                    os.kill(client.engine_pid, signal.SIGKILL)

            answers = await asyncio.gather(*(read(client.submit(job), count) for job in jobs()))
            await until(lambda: client.gauges.num_restarts == (tokens_until_kill is not None))
            return {job.request_id: answer for job, answer in zip(jobs(), answers, strict=True)}

    served = asyncio.run(serve())
    assert {name: answer.events for name, answer in served.items()} == {
        name: answer.events for name, answer in expected.items()
    }


def test_a_wrong_constraint_ends_its_request_with_the_reason() -> None:
    """The front tries constraints out before; the engine answers even when nobody did."""

    async def serve() -> Answer:
        async with running(CONFIG) as client:
            params = SamplingParams(seed=1, structured_outputs=StructuredOutputs("regex", "("))
            return await read(client.submit(Job("bad", [5], params)))

    (event,) = asyncio.run(serve()).events[0]
    assert event.finish == "error"
    assert "unclosed group" in str(event.stop_reason)
