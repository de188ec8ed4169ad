"""64 times the capacity, in virtual time: those let in are served in time, nothing of the engine is wasted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median

import pytest
from virtual_server import Capacity, Request, Server, run_virtually

SEED = 20261122
OVERLOAD_S = 20.0
Make = Callable[[random.Random], Request]


@dataclass(frozen=True)
class Load:
    capacity: Capacity
    max_queue_s: float
    num_clients: int
    make: Make


def fixed(num_prompt: int, num_output: int) -> Make:
    return lambda _chance: Request(num_prompt=num_prompt, num_output=num_output, max_tokens=num_output)


def mixed(chance: random.Random) -> Request:
    num_output = chance.randint(16, 64)
    return Request(num_prompt=chance.randint(20, 300), num_output=num_output, max_tokens=num_output)


def open_ended(chance: random.Random) -> Request:
    """A chat: no `max_tokens`, most answers short, some long."""
    num_output = 1 + min(300, int(chance.expovariate(1 / 60)))
    return Request(num_prompt=chance.randint(50, 500), num_output=num_output, max_tokens=None)


LARGE_MODEL_S = {"step_s": 0.020, "row_s": 0.0025}
LOADS = {
    "fast model": Load(Capacity(0.010, 0.0005, 64, weight_bytes=100_000_000), 2.0, 64, mixed),
    "rows run out": Load(Capacity(**LARGE_MODEL_S, max_num_seqs=16), 10.0, 16, mixed),
    "all of one length": Load(Capacity(**LARGE_MODEL_S, max_num_seqs=16), 10.0, 16, fixed(100, 128)),
    "prompts run ahead": Load(Capacity(**LARGE_MODEL_S, max_num_seqs=256), 10.0, 64, fixed(100, 64)),
    "blocks run out": Load(Capacity(**LARGE_MODEL_S, max_num_seqs=64, num_kv_blocks=512), 10.0, 64, open_ended),
}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def tokens_per_s_at_capacity(server: Server, load: Load, chance: random.Random, duration_s: float) -> float:
    """Prompt and output, in a closed loop: each client sends its next request when it has its answer."""
    began, num_tokens = server.time(), 0

    async def client() -> None:
        nonlocal num_tokens
        while server.time() < began + duration_s:
            request = await server.serve(load.make(chance))
            if request.finished is None:
                await asyncio.sleep(request.retry_after_s or 1.0)
            else:
                num_tokens += request.num_prompt + request.num_output

    await asyncio.gather(*(client() for _ in range(load.num_clients)))
    return num_tokens / (server.time() - began)


async def overload(
    server: Server, load: Load, chance: random.Random, tokens_per_s: float
) -> list[asyncio.Task[Request]]:
    """An open loop of 64 times the tokens a second for `OVERLOAD_S`."""
    samples = [load.make(random.Random(seed)) for seed in range(200)]
    rate = 64 * tokens_per_s / (sum(sample.num_prompt + sample.num_output for sample in samples) / 200)
    tasks: list[asyncio.Task[Request]] = []
    end = server.time() + OVERLOAD_S
    while server.time() < end:
        tasks.append(asyncio.create_task(server.serve(load.make(chance))))
        await asyncio.sleep(chance.expovariate(rate))
    return await asyncio.gather(*tasks)


@dataclass(frozen=True)
class Outcome:
    server: Server
    requests: list[Request]
    tokens_per_s_before: float
    tokens_per_s_during: float


async def traffic(load: Load, is_fresh: bool) -> Outcome:
    chance = random.Random(SEED)
    server = Server(load.capacity, max_queue_s=load.max_queue_s)
    before = await tokens_per_s_at_capacity(server, load, chance, 30.0)
    if is_fresh:
        server.stop()
        server = Server(load.capacity, max_queue_s=load.max_queue_s)
    began = server.time()
    requests = await overload(server, load, chance, before)
    server.stop()
    num_tokens = sum(request.num_prompt + request.num_output for request in requests if request.finished is not None)
    ended = max(request.finished for request in requests if request.finished is not None)
    return Outcome(server, requests, before, num_tokens / (ended - began))


@cache
def outcome(name: str, is_fresh: bool = False) -> Outcome:
    return run_virtually(traffic(LOADS[name], is_fresh))


@pytest.mark.parametrize("is_fresh", [False, True], ids=["measured", "fresh"])
@pytest.mark.parametrize("name", LOADS)
def test_those_let_in_are_served_in_time_and_the_engine_stays_busy(name: str, is_fresh: bool) -> None:
    load = LOADS[name]
    result = outcome(name, is_fresh)
    waits = [request.first_token_s for request in result.requests if request.first_token_s is not None]
    assert percentile(waits, 0.99) <= 1.5 * load.max_queue_s
    assert result.tokens_per_s_during >= 0.9 * result.tokens_per_s_before
    assert result.server.engine.most_blocks <= load.capacity.num_kv_blocks, "the engine would have had to preempt"
    assert (result.server.admission.num_queued, result.server.admission.num_in_engine) == (0, 0)


@pytest.mark.parametrize("name", LOADS)
def test_refusals_come_at_once_and_say_when_to_come_again(name: str) -> None:
    refused = [request for request in outcome(name).requests if request.refused_after_s is not None]
    assert sum(request.refused_after_s == 0.0 for request in refused) >= 0.99 * len(refused)
    for request in refused:
        assert request.retry_after_s is not None
        assert 1.0 <= request.retry_after_s <= 1.5 * LOADS[name].max_queue_s


@pytest.mark.parametrize("name", LOADS)
def test_predictions_are_close(name: str) -> None:
    """Within what no rate can foresee: requests of one length that began together end all at once."""
    bound = LOADS[name].max_queue_s
    errors = [
        request.first_token_s - request.predicted_s
        for request in outcome(name).requests
        if request.first_token_s is not None and request.predicted_s is not None
    ]
    assert median(abs(error) for error in errors) <= 0.25 * bound
    assert percentile(errors, 0.95) <= 0.7 * bound
