"""Steps over a paged cache for tests: attention of given queries, keys and values, in any split into steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.config import KVDtype
from vivace.formats.tensor import StoredTensor
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program, Value, Weight

Array = NDArray[Any]


def stored(x: Array) -> StoredTensor:
    rows = np.ascontiguousarray(x, dtype=np.float32)
    return StoredTensor("matrix", "f32", rows.shape, rows.view(np.uint8).reshape(rows.shape[0], -1))


def single_step(num_rows: int, sampled: list[int] | None = None) -> StepInputs:
    """One sequence of `num_rows` tokens whose ids count from 0: an embedding gives its table's rows."""
    counting = np.arange(num_rows, dtype=np.int32)
    return StepInputs(
        token_ids_T=counting,
        positions_T=counting,
        slots_T=counting,
        query_starts_B1=np.array([0, num_rows], np.int32),
        context_lens_B=np.array([num_rows], np.int32),
        block_tables_BX=np.arange((num_rows + 15) // 16, dtype=np.int32)[None],
        sampled_rows_S=np.array(range(num_rows) if sampled is None else sampled, np.int32),
    )


def run_rows(backend: Any, x: Array, record: Any) -> Array:
    """The value that `record(program, x)` defines, for the rows of x."""
    program = Program()
    value = program.embedding(backend.pack("x", stored(x)))
    program.output = record(program, value)
    spec = KVSpec(1, 1, 8, 16, "f32")
    cache = backend.kv_cache(spec, (len(x) + 15) // 16)
    executable = backend.compile(program, cache, StepLimits(len(x), len(x)))
    return np.asarray(executable.run(single_step(len(x)))).copy()


@dataclass(frozen=True)
class AttentionShape:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int = 16
    dtype: KVDtype = "f32"
    window: int | None = None
    softcap: float | None = None

    @property
    def spec(self) -> KVSpec:
        return KVSpec(1, self.num_kv_heads, self.head_dim, self.block_size, self.dtype)

    def record(self, program: Program, table: Weight) -> Value:
        qkv = program.embedding(table)
        q_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        program.kv_write(
            qkv.columns(q_width, q_width + kv_width), qkv.columns(q_width + kv_width, q_width + 2 * kv_width), 0
        )
        return program.attention(
            qkv.columns(0, q_width),
            0,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            window=self.window,
            softcap=self.softcap,
        )


class PagedAttention:
    """Sequences with random queries, keys and values; `run` computes any of their spans in one step."""

    def __init__(
        self, backend: Any, shape: AttentionShape, lengths: list[int], seed: int, broken: int | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = lengths
        self.block_size = shape.block_size
        width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        rows = rng.standard_normal((sum(lengths), width)).astype(np.float32)
        self.first_ids = np.concatenate([[0], np.cumsum(lengths)])
        if broken is not None:
            rows[self.first_ids[broken] : self.first_ids[broken + 1]] = np.nan
        counts = [-(-length // shape.block_size) for length in lengths]
        blocks = rng.permutation(sum(counts)).astype(np.int32)  # neighbours in a context lie apart in the cache
        self.tables = np.zeros((len(lengths), max(counts)), np.int32)
        for index, start in enumerate(np.cumsum([0, *counts[:-1]])):
            self.tables[index, : counts[index]] = blocks[start : start + counts[index]]
        program = Program()
        program.output = shape.record(program, backend.pack("qkv", stored(rows)))
        cache = backend.kv_cache(shape.spec, len(blocks))
        self.executable = backend.compile(program, cache, StepLimits(sum(lengths), 1))

    def run(self, spans: list[tuple[int, int, int]]) -> list[Array]:
        """Outputs [stop - start, H*K] of spans (sequence, start, stop), computed together."""
        positions = [np.arange(start, stop) for _, start, stop in spans]
        owners = np.array([sequence for sequence, _, _ in spans])
        slots = [
            self.tables[sequence, place // self.block_size] * self.block_size + place % self.block_size
            for (sequence, _, _), place in zip(spans, positions, strict=True)
        ]
        ids = [self.first_ids[sequence] + place for (sequence, _, _), place in zip(spans, positions, strict=True)]
        starts = np.cumsum([0, *[stop - start for _, start, stop in spans]])
        out = self.executable.run(
            StepInputs(
                token_ids_T=np.concatenate(ids).astype(np.int32),
                positions_T=np.concatenate(positions).astype(np.int32),
                slots_T=np.concatenate(slots).astype(np.int32),
                query_starts_B1=starts.astype(np.int32),
                context_lens_B=np.array([stop for _, _, stop in spans], np.int32),
                block_tables_BX=np.ascontiguousarray(self.tables[owners]),
                sampled_rows_S=np.zeros(0, np.int32),
            )
        )
        return np.split(np.asarray(out).copy(), starts[1:-1])

    def run_whole(self) -> list[Array]:
        """Every sequence in one step."""
        return self.run([(index, 0, length) for index, length in enumerate(self.lengths)])
