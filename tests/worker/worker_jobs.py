"""Jobs for the engine's process, what a bare engine answers to them, and readers of streams."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivace.core.config import EngineConfig
from vivace.core.events import TokenEvent, TokenLogprobs
from vivace.core.sampling import SamplingParams
from vivace.engine.loader import load_engine
from vivace.worker.job import Job
from vivace.worker.stream import TokenStream
from vivace.worker.supervisor import EngineClient

VOCABULARY = 331
DEADLINE_S = 120.0  # of every wait: a test that hangs fails instead
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@dataclass
class Answer:
    """All that a request brought."""

    events: dict[int, list[TokenEvent]] = field(default_factory=lambda: defaultdict(list))
    prompt_logprobs: list[TokenLogprobs | None] | None = None

    def add(self, events: Iterable[TokenEvent]) -> None:
        for event in events:
            self.events[event.index].append(event)


def tiny_config(folder: Path, **options: Any) -> EngineConfig:
    shape = folder / "shape.json"
    shape.write_text(json.dumps(SHAPE))
    sizes = {"max_num_seqs": 8, "num_kv_blocks": 256, "seed": 7, **options}
    return EngineConfig(load_format="dummy", config=str(shape), **sizes)


def params_of_every_kind(number: int, max_tokens: int) -> SamplingParams:
    common: dict[str, Any] = {"max_tokens": max_tokens, "seed": 2**63 + number, "logprobs": number % 3}
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "ignore_eos": True},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "ignore_eos": True},
        {"temperature": 0.9, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
        {"temperature": 1.4, "min_tokens": 9, "stop_token_ids": tuple(range(0, VOCABULARY, 9))},
        {"temperature": 1.4, "n": 3, "stop_token_ids": tuple(range(0, VOCABULARY, 40))},
        {"temperature": 1.0, "prompt_logprobs": 2, "logit_bias": {7: 3.0}},
    ]
    return SamplingParams(**common, **kinds[number % len(kinds)])


def make_jobs(count: int, *, seed: int, max_tokens: int = 40) -> list[Job]:
    chance = random.Random(seed)
    jobs = []
    for number in range(count):
        prompt = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 60))]
        params = params_of_every_kind(number, max_tokens)
        jobs.append(Job(f"job-{number}", prompt, params, priority=chance.choice([0, 0, 1])))
    return jobs


def undisturbed(config: EngineConfig, jobs: list[Job]) -> dict[str, Answer]:
    """What the bare engine says, in this process."""
    engine = load_engine(config).engine
    answers: dict[str, Answer] = defaultdict(Answer)
    for job in jobs:
        engine.add(job.request_id, job.prompt, job.params, priority=job.priority, cache_salt=job.cache_salt)
    while engine.num_unfinished:
        for event in engine.step():
            answers[event.request_id].add([event])
    for job in jobs:
        answers[job.request_id].prompt_logprobs = engine.record(job.request_id).prompt_logprobs
    return answers


async def read(stream: TokenStream, on_events: Callable[[list[TokenEvent]], None] | None = None) -> Answer:
    answer = Answer()
    async with asyncio.timeout(DEADLINE_S):
        async for events in stream:
            answer.add(events)
            if on_events is not None:
                on_events(events)
    answer.prompt_logprobs = stream.prompt_logprobs
    return answer


@asynccontextmanager
async def running(config: EngineConfig, **options: Any) -> AsyncIterator[EngineClient]:
    client = EngineClient(config, **options)
    async with asyncio.timeout(DEADLINE_S):
        await client.start()
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def num_tokens(answer: Answer) -> int:
    return sum(event.token is not None for events in answer.events.values() for event in events)
