"""Shares of keys, priorities and their aging, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest
from virtual_server import Capacity, Request, Server, run_virtually

SEED = 7
CAPACITY = Capacity(step_s=0.010, row_s=0.002, max_num_seqs=8)


async def offer(
    server: Server, chance: random.Random, per_s: float, duration_s: float, make: Callable[[], Request]
) -> list[Request]:
    """Requests at random times, `per_s` of them a second; returns when the last one has ended."""
    tasks: list[asyncio.Task[Request]] = []
    end = server.time() + duration_s
    while server.time() < end:
        await asyncio.sleep(chance.expovariate(per_s))
        tasks.append(asyncio.create_task(server.serve(make())))
    return await asyncio.gather(*tasks)


def served_tokens(requests: list[Request], begin: float, end: float) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for request in requests:
        if request.finished is not None and begin <= request.finished < end:
            tokens[request.key] += request.num_prompt + request.num_output
    return tokens


async def three_keys() -> tuple[list[Request], Counter[str]]:
    """Keys that ask for 2, 10 and 100 times their share, with requests of very different sizes."""
    chance, server = random.Random(SEED), Server(CAPACITY)
    kinds = {"modest": (4.0, 50, 32), "greedy": (6.0, 200, 100), "flood": (300.0, 30, 16)}

    def maker(key: str, num_prompt: int, num_output: int) -> Callable[[], Request]:
        return lambda: Request(key=key, num_prompt=num_prompt, num_output=num_output, max_tokens=num_output)

    flows = [offer(server, chance, per_s, 120.0, maker(key, *sizes)) for key, (per_s, *sizes) in kinds.items()]
    requests = [request for flow in await asyncio.gather(*flows) for request in flow]
    server.stop()
    return requests, served_tokens(requests, 30.0, 120.0)


def test_three_keys_with_very_different_loads_get_equal_shares() -> None:
    """In seconds of the engine, of which tokens are the measure: prompts and outputs differ in price."""
    _, tokens = run_virtually(three_keys())
    assert max(tokens.values()) <= 2.0 * min(tokens.values()), tokens


async def one_key_within_its_share() -> tuple[list[Request], list[Request]]:
    chance, server = random.Random(SEED), Server(CAPACITY)
    small = offer(server, chance, 0.5, 120.0, lambda: Request(key="small", num_prompt=50))
    flood = offer(server, chance, 200.0, 120.0, lambda: Request(key="flood", num_prompt=50))
    result = await asyncio.gather(small, flood)
    server.stop()
    return result[0], result[1]


def test_a_key_within_its_share_does_not_feel_a_flood() -> None:
    small, flood = run_virtually(one_key_within_its_share())
    assert all(request.finished is not None for request in small)
    waits = sorted(request.wait_s for request in small if request.wait_s is not None)
    assert waits[int(0.95 * len(waits))] < 2.0, "the flood waits close to 10 s"
    assert sum(request.finished is not None for request in flood) > 4 * len(small), "what small leaves is used"


async def two_priorities() -> tuple[list[Request], list[Request]]:
    chance, server = random.Random(SEED), Server(CAPACITY)
    urgent = offer(server, chance, 3.0, 60.0, lambda: Request(priority=-1, num_prompt=50))
    normal = offer(server, chance, 3.0, 60.0, lambda: Request(priority=0, num_prompt=50))
    result = await asyncio.gather(urgent, normal)
    server.stop()
    return result[0], result[1]


def mean_wait_s(requests: list[Request]) -> float:
    waits = [request.wait_s for request in requests if request.wait_s is not None]
    return sum(waits) / len(waits)


def test_the_urgent_go_first_and_the_others_are_served_too() -> None:
    urgent, normal = run_virtually(two_priorities())
    assert mean_wait_s(urgent) + 1.0 < mean_wait_s(normal)
    assert sum(request.finished is not None for request in normal) >= 0.1 * len(normal)


async def waits_behind_a_stream_of_urgent_ones(priority: int) -> Request:
    """One request behind urgent ones that alone fill the engine for ever; nothing bounds its wait."""
    chance = random.Random(SEED)
    server = Server(CAPACITY, max_queue_s=200.0, aging_s=2.5)
    flood = asyncio.create_task(offer(server, chance, 8.0, 90.0, lambda: Request(priority=0, num_prompt=50)))
    await asyncio.sleep(5.0)
    request = await server.serve(Request(priority=priority, num_prompt=50))
    flood.cancel()
    server.stop()
    return request


@pytest.mark.parametrize("priority", [1, 3, 8])
def test_nobody_starves(priority: int) -> None:
    """One level of priority is worth 2.5 s of waiting. The urgent ones' own queue grows meanwhile, and they age too:
    the wait is what it would be at their priority and 2.5 s for each level."""
    request = run_virtually(waits_behind_a_stream_of_urgent_ones(priority))
    equal = run_virtually(waits_behind_a_stream_of_urgent_ones(0))
    assert request.wait_s is not None
    assert equal.wait_s is not None
    assert request.wait_s >= equal.wait_s
    assert request.wait_s <= 3 * (equal.wait_s + 2.5 * priority)


async def same_key_order() -> list[float]:
    server = Server(CAPACITY, max_queue_s=1000.0)
    requests = [Request(num_prompt=20) for _ in range(60)]
    tasks = [asyncio.create_task(server.serve(request)) for request in requests]
    await asyncio.gather(*tasks)
    server.stop()
    return [request.wait_s or 0.0 for request in requests]


def test_requests_of_one_key_keep_their_order() -> None:
    waits = run_virtually(same_key_order())
    assert waits == sorted(waits)
