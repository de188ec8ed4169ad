"""Steps of a given shape for a profile: a program, a cache that is full, and inputs that walk over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vivace.bench.op_cost import StepShape
from vivace.engine.loader import LoadedEngine
from vivace.models.decoder import build_decoder
from vivace.ops.backend import Executable, KVCache, StepInputs, StepLimits
from vivace.ops.program import Op


@dataclass(frozen=True, slots=True)
class Phase:
    """`num_streams` sequences take `num_new` tokens each, with `depth` tokens of context before them."""

    name: str
    num_streams: int
    num_new: int
    depth: int

    @property
    def shape(self) -> StepShape:
        context_len = self.depth + self.num_new
        return StepShape((self.num_new,) * self.num_streams, (context_len,) * self.num_streams)


@dataclass(frozen=True, slots=True)
class ProfileProgram:
    """What runs the steps. `ops` in the order of the executable's times."""

    executable: Executable
    kv_cache: KVCache
    ops: tuple[Op, ...]
    limits: StepLimits


def profile_program(loaded: LoadedEngine, phases: list[Phase]) -> ProfileProgram:
    """A program of its own beside the engine's, with a cache for the largest phase, filled: memory that was never
    written is one shared page of zeros, which is read at the speed of the caches."""
    spec, backend, block_size = loaded.spec, loaded.backend, loaded.kv_spec.block_size
    blocks = [phase.num_streams * _num_blocks(phase, block_size) for phase in phases]
    kv_cache = backend.kv_cache(loaded.kv_spec, max(blocks))
    program = build_decoder(spec, loaded.parameters, loaded.engine.config.max_model_len)
    largest = max(block_size, *(phase.num_streams * phase.num_new for phase in phases))
    num_streams = max(phase.num_streams for phase in phases)
    limits = StepLimits(largest, num_streams, num_streams, max(phase.depth + phase.num_new for phase in phases))
    executable = backend.compile(program, kv_cache, limits)
    first_block = Phase("fill", 1, block_size, 0)
    executable.run(step_inputs(first_block, block_size, spec.vocab_size))
    kv_cache.copy_blocks([(0, block) for block in range(1, max(blocks))])
    return ProfileProgram(executable, kv_cache, tuple(program.ops), limits)


def step_inputs(phase: Phase, block_size: int, vocab_size: int, seed: int = 0) -> StepInputs:
    """Random tokens; stream b's context lies in blocks of its own, in order."""
    num_streams, num_new = phase.num_streams, phase.num_new
    num_blocks = _num_blocks(phase, block_size)
    tables_BX = np.arange(num_streams * num_blocks, dtype=np.int32).reshape(num_streams, num_blocks)
    positions = np.arange(phase.depth, phase.depth + num_new, dtype=np.int32)
    slots_BN = tables_BX[:, positions // block_size] * np.int32(block_size) + positions % np.int32(block_size)
    tokens = np.random.default_rng(seed).integers(0, vocab_size, num_streams * num_new, np.int32)
    return StepInputs(
        token_ids_T=tokens,
        positions_T=np.tile(positions, num_streams),
        slots_T=slots_BN.reshape(-1),
        query_starts_B1=np.arange(num_streams + 1, dtype=np.int32) * np.int32(num_new),
        context_lens_B=np.full(num_streams, phase.depth + num_new, np.int32),
        block_tables_BX=tables_BX,
        sampled_rows_S=np.arange(1, num_streams + 1, dtype=np.int32) * np.int32(num_new) - np.int32(1),
    )


def _num_blocks(phase: Phase, block_size: int) -> int:
    return -(-(phase.depth + phase.num_new) // block_size)
