"""64 times what the server can do, for 20 s: are those it lets in served in time, and does it lose anything by it?

    python benches/overload.py [--bound S] [--server-flags="..."]

Measures the capacity (a closed loop of as many clients as the engine has rows), then sends requests at 64 times that
rate whether or not answers come, over keep-alive connections from this process. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop
from http_load import Answer, Client
from server_process import dummy_flags, running_server

NUM_SEQS, PROMPT_LEN, OUTPUT_LEN = 32, 128, 32
CAPACITY_S, OVERLOAD_S, FACTOR = 20.0, 20.0, 64
TTFT_LIMIT, GOODPUT_LIMIT, REJECT_LIMIT_S = 1.5, 0.9, 0.050


@dataclass
class Phase:
    """One kind of load and its answers."""

    began: float
    answers: list[Answer] = field(default_factory=list)
    num_failed: int = 0
    most_behind_s: float = 0.0  # how late the generator itself was

    @property
    def served(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def refused(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 429]

    @property
    def tokens_per_s(self) -> float:
        """From the first request to the last answer, all whole requests."""
        ended = max(answer.finished for answer in self.served)
        return sum(answer.num_tokens for answer in self.served) / (ended - self.began)


def request(chance: random.Random) -> dict[str, Any]:
    return {
        "prompt": [chance.randrange(100, 4000) for _ in range(PROMPT_LEN)],
        "max_tokens": OUTPUT_LEN,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def closed_loop(client: Client, chance: random.Random) -> Phase:
    phase = Phase(time.perf_counter())

    async def one_client() -> None:
        while time.perf_counter() < phase.began + CAPACITY_S:
            answer = await client.post("/v1/completions", request(chance))
            phase.answers.append(answer)
            if answer.status == 429:
                await asyncio.sleep(float(answer.headers["retry-after"]))

    await asyncio.gather(*(one_client() for _ in range(NUM_SEQS)))
    return phase


async def open_loop(client: Client, chance: random.Random, per_s: float) -> Phase:
    """What is to be sent is made before: the generator shares the machine with what it measures."""
    dues, due = [], 0.0
    while due < OVERLOAD_S:
        dues.append(due)
        due += chance.expovariate(per_s)
    requests = [client.prepared("/v1/completions", request(chance)) for _ in dues]
    phase = Phase(time.perf_counter())

    async def one_request(content: bytes) -> None:
        try:
            phase.answers.append(await client.send(content))
        except OSError:
            phase.num_failed += 1

    tasks = []
    for due, content in zip(dues, requests, strict=True):
        delay_s = phase.began + due - time.perf_counter()
        phase.most_behind_s = max(phase.most_behind_s, -delay_s)
        await asyncio.sleep(max(delay_s, 0.0))
        tasks.append(asyncio.create_task(one_request(content)))
    await asyncio.gather(*tasks)
    return phase


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def report(capacity: Phase, overload: Phase, bound_s: float) -> dict[str, Any]:
    first = [answer.first_event_s for answer in overload.served]
    refusal_s = [answer.finished - answer.sent for answer in overload.refused]
    before, during = capacity.tokens_per_s, overload.tokens_per_s
    return {
        "capacity_tokens_per_s": round(before, 1),
        "capacity_requests_per_s": round(before / OUTPUT_LEN, 2),
        "offered": len(overload.answers),
        "served": len(overload.served),
        "refused": len(overload.refused),
        "failed": overload.num_failed + len(overload.answers) - len(overload.served) - len(overload.refused),
        "refused_late": sum(duration_s > 1.0 for duration_s in refusal_s),
        "bound_s": bound_s,
        "ttft_p50_s": round(percentile(first, 0.5), 3),
        "ttft_p99_s": round(percentile(first, 0.99), 3),
        "ttft_p99_over_bound": round(percentile(first, 0.99) / bound_s, 3),
        "goodput_ratio": round(during / before, 3),
        "reject_p50_ms": round(1e3 * percentile(refusal_s, 0.5), 2),
        "reject_p99_ms": round(1e3 * percentile(refusal_s, 0.99), 2),
        "with_retry_after": sum("retry-after" in answer.headers for answer in overload.refused),
        "generator_late_ms": round(1e3 * overload.most_behind_s, 1),
    }


def is_kept(row: dict[str, Any]) -> dict[str, bool]:
    return {
        f"p99 TTFT within {TTFT_LIMIT} of the bound": row["ttft_p99_over_bound"] <= TTFT_LIMIT,
        f"goodput at least {GOODPUT_LIMIT:.0%} of capacity": row["goodput_ratio"] >= GOODPUT_LIMIT,
        f"rejects (p99) within {1e3 * REJECT_LIMIT_S:.0f} ms": row["reject_p99_ms"] <= 1e3 * REJECT_LIMIT_S,
        "every reject says when to come again": row["with_retry_after"] == row["refused"],
        "nothing failed": row["failed"] == 0,
    }


async def measure(port: int, bound_s: float, seed: int) -> dict[str, Any]:
    chance, client = random.Random(seed), Client("127.0.0.1", port)
    for answer in await asyncio.gather(*(client.post("/v1/completions", request(chance)) for _ in range(4))):
        assert answer.status == 200, answer
    capacity = await closed_loop(client, chance)
    overload = await open_loop(client, chance, FACTOR * capacity.tokens_per_s / OUTPUT_LEN)
    client.close()
    return report(capacity, overload, bound_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bound", type=float, default=10.0, help="max_queue_s of the server")
    parser.add_argument("--config", default="qwen2.5-0.5b", help="shape of the random int4 weights")
    parser.add_argument("--server-flags", help="instead of random weights, for example a model")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    flags = dummy_flags(arguments.config) if arguments.server_flags is None else shlex.split(arguments.server_flags)
    flags += ["--max-num-seqs", str(NUM_SEQS), "--max-queue-s", str(arguments.bound)]
    with running_server(flags) as server:
        row = uvloop.run(measure(server.port, arguments.bound, arguments.seed))
    for name, value in row.items():
        print(f"{name:>24}  {value}")
    for name, kept in is_kept(row).items():
        print(f"{'kept' if kept else 'BROKEN':>24}  {name}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
