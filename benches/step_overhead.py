"""Python's share of a decode step: everything of `Engine.step` but the model, at 1, 64 and 256 running sequences.

    python benches/step_overhead.py [--prompt-len 1500]

The executable returns constant logits at once and the sampler a constant token, so planning, packing,
committing and emitting are timed. Prints the median and the 10th to 90th percentile of 400 steps for each count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from vivace.core.config import ResolvedConfig
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine, ModelLimits
from vivace.ops.backend import KVSpec, SampleInputs, StepInputs
from vivace.ops.random import row_uniforms
from vivace.runtime.batch import BatchBuilder
from vivace.runtime.runner import Runner
from vivace.schedule import BlockManager, ContinuousBatching

MAX_NUM_SEQS, MAX_MODEL_LEN, BLOCK_SIZE, NUM_STEPS = 256, 2048, 16, 400


class ConstantModel:
    """Stands where the backend, the executable and the KV cache stand; does nothing."""

    name = "constant"
    spec = KVSpec(1, 1, 1, BLOCK_SIZE, "f32")
    num_blocks = 1
    logits = np.zeros((MAX_NUM_SEQS, 1), np.float32)

    def run(self, inputs: StepInputs) -> Any:
        return self.logits[: len(inputs.sampled_rows_S)]

    def uniforms(self, seed_S: Any, index_S: Any, position_S: Any) -> Any:
        return row_uniforms(seed_S, index_S, position_S)

    def sample(self, _logits: Any, inputs: SampleInputs) -> Any:
        return np.full(len(inputs.temperature_S), 5, np.int32)

    def copy_blocks(self, _pairs: Any) -> None:
        raise AssertionError("nothing forks here")


def make_engine() -> Engine:
    num_blocks = MAX_NUM_SEQS * MAX_MODEL_LEN // BLOCK_SIZE
    config = ResolvedConfig(
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=65536,
        block_size=BLOCK_SIZE,
        num_kv_blocks=num_blocks,
        kv_cache_dtype="f32",
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        batching="continuous",
        static_batch_size=8,
        static_batch_timeout_ms=0.0,
        seed=0,
        choices=(),
    )
    scheduler = ContinuousBatching(
        BlockManager(num_blocks, BLOCK_SIZE, True),
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=65536,
        max_model_len=MAX_MODEL_LEN,
    )
    model: Any = ConstantModel()
    runner = Runner(model, model, model, BatchBuilder(MAX_NUM_SEQS, MAX_MODEL_LEN, BLOCK_SIZE), model)
    return Engine(runner, scheduler, config, ModelLimits(32000, frozenset({2})))


def step_microseconds(num_sequences: int, params: SamplingParams, prompt_len: int) -> list[float]:
    """Durations of steps in which every sequence decodes one token."""
    engine = make_engine()
    generator = np.random.default_rng(0)
    for number in range(num_sequences):
        engine.add(str(number), generator.integers(3, 32000, prompt_len).tolist(), params)
    for _ in range(20 + num_sequences * prompt_len // 65536):
        engine.step()
    durations = []
    for _ in range(NUM_STEPS):
        started = time.perf_counter()
        events = engine.step()
        durations.append((time.perf_counter() - started) * 1e6)
        assert len(events) == num_sequences
    return durations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-len", type=int, default=100, help="tokens of each prompt, up to 1600")
    prompt_len = parser.parse_args().prompt_len
    kinds = {
        "greedy": SamplingParams(temperature=0.0, max_tokens=None),
        "sampled": SamplingParams(max_tokens=None),
        "penalised": SamplingParams(temperature=0.0, presence_penalty=0.5, max_tokens=None),
    }
    for name, params in kinds.items():
        for num_sequences in (1, 64, 256):
            durations = step_microseconds(num_sequences, params, prompt_len)
            low, *_, high = statistics.quantiles(durations, n=10)
            row = {
                "sampling": name,
                "sequences": num_sequences,
                "median_us": round(statistics.median(durations), 1),
                "p10_us": round(low, 1),
                "p90_us": round(high, 1),
            }
            print(json.dumps(row))


if __name__ == "__main__":
    main()
