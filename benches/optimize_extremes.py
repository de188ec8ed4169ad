"""From naive to fast with the chat workload: chosen configurations in turn, on real or random weights.

`python benches/optimize_extremes.py --load-format dummy --config llama-3.2-1b --requests 32 --limit 20`: each runs
one user alone and then all users at once, cut off after `--limit` seconds, in rounds. Prints medians and what they
are beside the first (32-bit weights, one request after another, no prefix cache).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from vivace.core.config import EngineConfig
from vivace.optimize.candidate import Candidate
from vivace.optimize.engine_laboratory import EngineLaboratory
from vivace.optimize.engine_shelf import EngineShelf
from vivace.optimize.kv_pool import KVPool
from vivace.optimize.measurement import Forecast, Measurement
from vivace.optimize.subject import read_subject
from vivace.optimize.workload import make_workload

THREADS = 2
FAST = Candidate("int4", "bf16", 64, 512, num_threads=THREADS)


def candidates(longest: int) -> dict[str, Candidate]:
    naive = Candidate(
        "f32", "f32", 1, max(512, longest), enable_prefix_caching=False, num_threads=THREADS, batching="static"
    )
    return {
        "naive, 32-bit": naive,
        "naive, 16-bit": replace(naive, quantization="bf16", kv_cache_dtype="bf16"),
        "int8": replace(FAST, quantization="int8"),
        "w8a8, 8-bit cache": replace(FAST, quantization="w8a8", kv_cache_dtype="int8_per_token_head"),
        "int4": FAST,
        "int4, 8-bit cache": replace(FAST, kv_cache_dtype="int8_per_token_head"),
    }


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} - {max(values):,.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--config")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20.0)
    parser.add_argument("--only", nargs="*", help="names of configurations")
    arguments = parser.parse_args()
    config = EngineConfig(load_format=arguments.load_format, config=arguments.config, max_model_len=2048)
    subject = read_subject(config)
    workload = make_workload("chat", subject.reader, arguments.requests, 0)
    workload = replace(workload, alone=replace(workload.alone, requests=workload.alone.requests[:2]))
    shelf = EngineShelf(subject.config, KVPool.of(workload, subject.spec).num_blocks)
    laboratory = EngineLaboratory(shelf, workload, FAST, lambda _: Forecast(1, 1, 1), limit_s=arguments.limit)
    chosen = {k: v for k, v in candidates(workload.longest_tokens).items() if k in (arguments.only or [k])}
    runs: dict[str, list[Measurement]] = {name: [] for name in chosen}
    for number in range(arguments.rounds):
        for name, candidate in chosen.items():
            started = time.monotonic()
            outcome = laboratory.measure([candidate], 1.0, sweep=False)[0]
            if outcome.measurement is None:
                raise SystemExit(f"{name}: {outcome.failure}")
            last = outcome.measurement
            runs[name].append(last)
            figures = f"{last.tokens_per_s:.1f} tok/s, one user {last.single_latency_ms:.0f} ms"
            print(f"round {number + 1}: {name}: {figures}, in {time.monotonic() - started:.0f} s", flush=True)
    first = runs[next(iter(chosen))]
    for name, found in runs.items():
        speed = [a.tokens_per_s / b.tokens_per_s for a, b in zip(found, first, strict=True)]
        quick = [b.single_latency_ms / a.single_latency_ms for a, b in zip(found, first, strict=True)]
        tokens, latency = (
            spread([one.tokens_per_s for one in found]),
            spread([one.single_latency_ms for one in found]),
        )
        print(f"{name:20} {tokens} tok/s x{spread(speed)}; one user {latency} ms x{spread(quick)}")


if __name__ == "__main__":
    main()
