"""What fusing attention into one kernel brings: a decode step as it runs, beside one with attention in three passes.

The passes are those of a framework that fuses nothing: scores, softmax and weighted sum, each written to memory and
read by the next. They are NumPy's, with its BLAS, and are favoured wherever it is simple: keys and values lie ready
in 32 bits, neither gathered from blocks nor decoded, and their time counts as if it were shared out over all threads.
So what is found is the least that fusing brings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.bench.profile_step import Phase, profile_program, step_inputs
from vivace.engine.loader import LoadedEngine
from vivace.models.spec import ModelSpec
from vivace.ops.program import Attention

ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Fusion:
    """`ratios`: times as long as the fused step the other one takes, in rounds, none on a GPU; at `num_streams`
    sequences with `depth` tokens of context each."""

    num_streams: int
    depth: int
    ratios: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        return {"num_streams": self.num_streams, "depth": self.depth, "ratios": list(self.ratios)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Fusion:
        return cls(record["num_streams"], record["depth"], tuple(record["ratios"]))


def measure_fusion(
    loaded: LoadedEngine,
    num_streams: int,
    depth: int,
    num_threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Fusion:
    """The two in turn."""
    phase = Phase("decode", num_streams, 1, depth)
    program = profile_program(loaded, [phase])
    inputs = step_inputs(phase, loaded.kv_spec.block_size, loaded.spec.vocab_size)
    is_attention = [isinstance(op, Attention) for op in program.ops]
    passes = _passes(loaded.spec, phase)
    ratios = []
    for number in range(ROUNDS + 1):
        seconds = program.executable.run_timed(inputs)[: len(program.ops)]
        started = clock()
        passes()
        separate_s = loaded.spec.num_layers * (clock() - started) / num_threads
        step_s, fused_s = float(seconds.sum()), float(seconds[is_attention].sum())
        if number:  # the first warms up
            ratios.append((step_s - fused_s + separate_s) / step_s)
    return Fusion(num_streams, depth, tuple(ratios))


def _passes(spec: ModelSpec, phase: Phase) -> Callable[[], object]:
    """Attention of one layer. Shape letters: B streams, G heads of keys, R query heads of each, T tokens, K
    dimensions."""
    random = np.random.default_rng(0)
    heads, dimensions = spec.num_kv_heads, spec.head_dim
    repeated, length = spec.num_heads // heads, phase.depth + phase.num_new
    q_BGRK = random.standard_normal((phase.num_streams, heads, repeated, dimensions), dtype=np.float32)
    k_BGKT = random.standard_normal((phase.num_streams, heads, dimensions, length), dtype=np.float32)
    v_BGTK = random.standard_normal((phase.num_streams, heads, length, dimensions), dtype=np.float32)

    def run() -> object:
        scores_BGRT = np.matmul(q_BGRK, k_BGKT) * np.float32(dimensions**-0.5)
        weights_BGRT = np.exp(scores_BGRT - scores_BGRT.max(axis=-1, keepdims=True))
        return np.matmul(weights_BGRT / weights_BGRT.sum(axis=-1, keepdims=True), v_BGTK)

    return run
