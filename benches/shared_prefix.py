"""Clients that share a long prefix, cold: it is computed once, whoever comes first.

    python benches/shared_prefix.py [--config llama-3.2-1b] [--rounds N]

8 clients send 16 requests in all, each a prefix of 512 tokens that all have in common and 32 tokens of its own, and
read 64 tokens. Then the same with prompts that share nothing, for what the sharing saves. Each round has a new
prefix, so every one is cold. Prints TTFT and tokens a second, and a line of JSON, beside llama.cpp's server as
ANCHORS.md of the shared data has it (same shape and load, Q4_0 weights, 2-core reference machine: compare on that one
only). The bound on waiting is lifted: without sharing, the last of 8 prompts of 544 tokens waits longer than 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import uvloop
from http_load import Answer, Client
from server_process import dummy_flags, running_server

NUM_CLIENTS, NUM_REQUESTS, PREFIX_LEN, OWN_LEN, OUTPUT_LEN = 8, 16, 512, 32, 64
LLAMA_CPP = {"ttft_p50_s": 16.0, "ttft_p95_s": 37.0, "tokens_per_s": 15.0}


def random_ids(chance: random.Random, num_ids: int) -> list[int]:
    return [chance.randrange(100, 4000) for _ in range(num_ids)]


def prompts(chance: random.Random, *, is_shared: bool) -> list[list[int]]:
    prefix = random_ids(chance, PREFIX_LEN)
    return [
        (prefix if is_shared else random_ids(chance, PREFIX_LEN)) + random_ids(chance, OWN_LEN)
        for _ in range(NUM_REQUESTS)
    ]


async def one_round(client: Client, all_prompts: Sequence[list[int]]) -> dict[str, float]:
    """Each client sends its next request when it has its answer."""
    left, answers, began = list(all_prompts), list[Answer](), time.perf_counter()

    async def one_client() -> None:
        while left:
            body = {
                "prompt": left.pop(),
                "max_tokens": OUTPUT_LEN,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            answers.append(await client.post("/v1/completions", body))
            assert answers[-1].status == 200, answers[-1]

    await asyncio.gather(*(one_client() for _ in range(NUM_CLIENTS)))
    first = statistics.quantiles((answer.first_event_s for answer in answers), n=20, method="inclusive")
    duration_s = max(answer.finished for answer in answers) - began
    return {
        "ttft_p50_s": first[9],
        "ttft_p95_s": first[18],
        "tokens_per_s": sum(answer.num_tokens for answer in answers) / duration_s,
        "cached_tokens": sum(answer.num_cached_tokens for answer in answers),
    }


async def measure(port: int, num_rounds: int, seed: int, *, with_unshared: bool) -> dict[str, list[dict[str, float]]]:
    chance, client = random.Random(seed), Client("127.0.0.1", port)
    await client.post("/v1/completions", {"prompt": random_ids(chance, 64), "max_tokens": 8})
    rounds: dict[str, list[dict[str, float]]] = {"shared": []} | ({"unshared": []} if with_unshared else {})
    for _ in range(num_rounds):
        for name, results in rounds.items():
            results.append(await one_round(client, prompts(chance, is_shared=name == "shared")))
    client.close()
    return rounds


def spread(rounds: Sequence[dict[str, float]], figure: str) -> list[float]:
    """Median, least and most."""
    values = [one[figure] for one in rounds]
    return [round(value, 3) for value in (statistics.median(values), min(values), max(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="llama-3.2-1b", help="shape of the random int4 weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unshared", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with running_server([*dummy_flags(arguments.config), "--max-queue-s", "300"]) as server:
        rounds = uvloop.run(measure(server.port, arguments.rounds, arguments.seed, with_unshared=arguments.unshared))
    table: dict[str, Any] = {}
    for name, results in rounds.items():
        table[name] = {figure: spread(results, figure) for figure in (*LLAMA_CPP, "cached_tokens")}
        for figure, (median, least, most) in table[name].items():
            print(
                f"{name:>10} {figure:>14}  {median:>9} ({least} to {most})  llama.cpp: {LLAMA_CPP.get(figure, '-')}"
            )
    ratio = LLAMA_CPP["ttft_p50_s"] / table["shared"]["ttft_p50_s"][0]
    print(f"{'':>10} TTFT p50 is {ratio:.1f} times lower than llama.cpp's")
    print(json.dumps({"config": arguments.config, "rounds": arguments.rounds, "ttft_p50_ratio": ratio, **table}))


if __name__ == "__main__":
    main()
