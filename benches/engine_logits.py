"""Logits of every position, by the engine's own decoder on the CPU backend: what quality is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivace.backends.cpu.backend import CpuBackend
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.decoder import build_decoder
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.ops.backend import KVDtype, KVSpec, StepInputs, StepLimits

BLOCK_SIZE = 16


def int32(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values, np.int32)


class EngineModel:
    """A model directory or a GGUF file; each prompt of at most `longest` tokens runs alone, in one step."""

    def __init__(self, path: Path, longest: int, kv_dtype: KVDtype = "f32") -> None:
        backend = CpuBackend(num_threads=1)
        with open_checkpoint(path) as checkpoint:
            spec = read_hf_config(path) if path.is_dir() else spec_from_gguf(checkpoint)
            parameters = load_parameters(spec, checkpoint, backend)
        self.num_blocks = -(-longest // BLOCK_SIZE)
        cache = backend.kv_cache(
            KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, BLOCK_SIZE, kv_dtype), self.num_blocks
        )
        program = build_decoder(spec, parameters, longest)
        self.executable = backend.compile(program, cache, StepLimits(longest, longest))

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """[T, V], float32."""
        positions = np.arange(len(tokens))
        inputs = StepInputs(
            token_ids_T=int32(tokens),
            positions_T=int32(positions),
            slots_T=int32(positions),
            query_starts_B1=int32([0, len(tokens)]),
            context_lens_B=int32([len(tokens)]),
            block_tables_BX=int32(np.arange(self.num_blocks))[None],
            sampled_rows_S=int32(positions),
        )
        return np.array(self.executable.run(inputs))
