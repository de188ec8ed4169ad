"""What the way through HTTP costs beside the engine alone, at 64 concurrent streams.

    python benches/front_end.py [--config qwen2.5-0.5b] [--rounds N]

The same requests run in turn on an engine in this process and over HTTP through `vivace serve` (idle meanwhile),
fresh prompts each time. ITL is a stream's mean gap between its tokens, as its reader sees it. Prints medians over the
rounds with their spread, the median of the rounds' ratios, and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import uvloop
from http_load import Client
from server_process import ServerProcess, dummy_flags, running_server

from vivace.bench.metrics import rates, tpot_ms
from vivace.bench.timeline import Stream, Timeline, run
from vivace.bench.workload import Workload
from vivace.core.config import EngineConfig
from vivace.engine.loader import load_engine

NUM_STREAMS, PROMPT_LEN = 64, 4  # short: with prompts beside them, gaps between tokens are not the way through HTTP
KV_CACHE_BYTES = 1 << 30
VOCAB_SIZE = 4000  # of the prompts: every model's is larger


def engine_options(config: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"kv_cache_memory_bytes": KV_CACHE_BYTES, "max_num_seqs": NUM_STREAMS}
    if config is not None:
        options |= flag_values(dummy_flags(config))
    return options


def flag_values(given: Sequence[str]) -> dict[str, Any]:
    names = [name.removeprefix("--").replace("-", "_") for name in given[::2]]
    return dict(zip(names, given[1::2], strict=True))


def flags(options: dict[str, Any]) -> list[str]:
    return [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]


async def through_http(client: Client, workload: Workload, prompts: Sequence[list[int]]) -> Timeline:
    """All streams at once. A token without text of its own is given the time of its neighbours."""
    requests = [
        {
            "prompt": prompt,
            "max_tokens": workload.output_len,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for prompt in prompts
    ]
    answers = await asyncio.gather(*(client.post("/v1/completions", request) for request in requests))
    streams = []
    for answer in answers:
        assert answer.status == 200, answer.body
        assert answer.num_tokens == workload.output_len, answer.body[-500:]
        first, gap_s = answer.token_s[0], answer.mean_gap_s
        streams.append(Stream(answer.sent, [first + gap_s * number for number in range(workload.output_len)]))
    return Timeline(workload, tuple(streams))


def row(timeline: Timeline) -> dict[str, float]:
    gaps = tpot_ms([timeline])
    assert gaps is not None
    return {"itl_ms": gaps.median, "tokens_per_s": rates(timeline).output_tokens_per_s}


async def measure(
    server: ServerProcess, options: dict[str, Any], workload: Workload, num_rounds: int
) -> list[dict[str, Any]]:
    engine = load_engine(EngineConfig.from_options(options)).engine
    client = Client("127.0.0.1", server.port)
    rounds = []
    for number in range(-1, num_rounds):
        bare = row(run(engine, workload, workload.prompts(VOCAB_SIZE, 2 * number), time.perf_counter))
        prompts, cpu_s = workload.prompts(VOCAB_SIZE, 2 * number + 1), server.cpu_s
        http = row(await through_http(client, workload, prompts))
        http["front_cpu_us_per_token"] = 1e6 * (server.cpu_s - cpu_s) / (NUM_STREAMS * workload.output_len)
        print(number, bare, http, file=sys.stderr)
        if number >= 0:  # the first round warms both up
            rounds.append({"bare": bare, "http": http})
    client.close()
    return rounds


def spread(values: Iterable[float]) -> list[float]:
    """Median, least and most."""
    ordered = sorted(values)
    return [round(value, 3) for value in (statistics.median(ordered), ordered[0], ordered[-1])]


def report(rounds: list[dict[str, Any]]) -> dict[str, list[float]]:
    result = {"front_cpu_us_per_token": spread(one["http"]["front_cpu_us_per_token"] for one in rounds)}
    for figure in ("itl_ms", "tokens_per_s"):
        for way in ("bare", "http"):
            result[f"{way}_{figure}"] = spread(one[way][figure] for one in rounds)
        result[f"{figure}_ratio"] = spread(one["http"][figure] / one["bare"][figure] for one in rounds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="shape of random int4 weights; default: the embedded model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output-len", type=int, default=64)
    arguments = parser.parse_args()
    options = engine_options(arguments.config)
    workload = Workload(NUM_STREAMS, PROMPT_LEN, arguments.output_len)
    with running_server([*flags(options), "--max-queue-s", "300"]) as server:
        rounds = uvloop.run(measure(server, options, workload, arguments.rounds))
    result = report(rounds)
    print(f"{'':>24}  {'median':>9} {'least':>9} {'most':>9}")
    for name, (median, least, most) in result.items():
        print(f"{name:>24}  {median:>9} {least:>9} {most:>9}")
    print(json.dumps({"model": arguments.config or "embedded", "streams": NUM_STREAMS, **result}))


if __name__ == "__main__":
    main()
