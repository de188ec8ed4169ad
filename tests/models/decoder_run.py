"""Runs a decoder on a backend, by hand: what the engine does, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.models.decoder import Output, build_decoder
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend, KVSpec, StepInputs, StepLimits

BLOCK_SIZE = 4
NUM_BLOCKS = 64
BACKENDS = {"reference": ReferenceBackend, "cpu": CpuBackend}


def int32(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.int32)


class DecoderRun:
    """A compiled decoder, its cache, and block tables that scatter each sequence over the cache."""

    def __init__(
        self,
        backend: Backend,
        spec: ModelSpec,
        parameters: Parameters,
        max_model_len: int = 128,
        num_sequences: int = 2,
        output: Output = "logits",
    ) -> None:
        kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, BLOCK_SIZE, "f32")
        program = build_decoder(spec, parameters, max_model_len, output=output)
        self.executable = backend.compile(program, backend.kv_cache(kv_spec, NUM_BLOCKS), StepLimits(256, 256))
        blocks = np.random.default_rng(5).permutation(NUM_BLOCKS)
        self.block_tables = int32(blocks.reshape(num_sequences, -1))
        self.num_computed = [0] * num_sequences

    def step(self, tokens: Sequence[Sequence[int] | np.ndarray]) -> list[np.ndarray]:
        """Runs `tokens[b]` more tokens of each sequence b that has some; the output [T, V or D] of each of those."""
        active = [sequence for sequence, new in enumerate(tokens) if len(new)]
        starts = np.cumsum([0, *(len(tokens[sequence]) for sequence in active)])
        positions = [np.arange(len(tokens[sequence])) + self.num_computed[sequence] for sequence in active]
        slots = [
            self.block_tables[sequence, at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE
            for sequence, at in zip(active, positions, strict=True)
        ]
        for sequence in active:
            self.num_computed[sequence] += len(tokens[sequence])
        output = self.executable.run(
            StepInputs(
                token_ids_T=int32(np.concatenate([tokens[sequence] for sequence in active])),
                positions_T=int32(np.concatenate(positions)),
                slots_T=int32(np.concatenate(slots)),
                query_starts_B1=int32(starts),
                context_lens_B=int32([self.num_computed[sequence] for sequence in active]),
                block_tables_BX=int32(self.block_tables[active]),
                sampled_rows_S=int32(np.arange(starts[-1])),
            )
        )
        return [np.array(part) for part in np.split(np.asarray(output), starts[1:-1])]


def prompt_logits(
    backend: Backend, spec: ModelSpec, parameters: Parameters, tokens: np.ndarray, max_model_len: int = 128
) -> np.ndarray:
    """[T, V] of one prompt in one step."""
    return DecoderRun(backend, spec, parameters, max_model_len).step([tokens, []])[0]
