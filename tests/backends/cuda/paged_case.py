"""Random ragged steps over a paged cache, and what `vivace.ops.reference` makes of them in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from triton_interpreter import DEVICE, torch

from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.attention_tiles import whole_tile
from vivace.backends.cuda.kernels.paged_plane import PagedPlane, float_plane, fp8_plane, int4_plane, int8_plane
from vivace.backends.cuda.kernels.ragged_rows import RaggedRows, ragged_rows
from vivace.ops import reference
from vivace.ops.backend import StepInputs

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class PagedCase:
    q_TD: np.ndarray  # rounded to `dtype`
    keys: PagedPlane
    values: PagedPlane
    decoded_keys: np.ndarray  # [blocks, G, S, K], what the planes stand for
    decoded_values: np.ndarray
    inputs: StepInputs
    shape: AttentionShape
    dtype: torch.dtype

    @property
    def rows(self) -> RaggedRows:
        heads = self.shape.num_heads // self.shape.num_kv_heads
        return ragged_rows(self.inputs, heads, whole_tile(self.shape.head_dim), DEVICE)

    @property
    def q(self) -> torch.Tensor:
        return torch.from_numpy(self.q_TD).to(DEVICE, self.dtype)

    @property
    def paths(self) -> reference.TreePaths | None:
        if self.inputs.parents_T is None:
            return None
        return reference.TreePaths(self.inputs.parents_T, self.inputs.slots_T, self.keys.block_size)

    def expected(self) -> np.ndarray:
        inputs, shape = self.inputs, self.shape
        return reference.paged_attention(
            self.q_TD, self.decoded_keys, self.decoded_values,
            inputs.query_starts_B1, inputs.context_lens_B, inputs.block_tables_BX,
            scale=shape.scale, window=shape.window, softcap=shape.softcap, paths=self.paths,
        )  # fmt: skip


def paged_case(
    rng: np.random.Generator,
    spans: list[tuple[int, int]],
    shape: AttentionShape,
    *,
    block_size: int = 16,
    kind: str = "float",
    dtype: str = "f32",
) -> PagedCase:
    """`spans`: rows and context of each sequence. Blocks lie in random order, those of nobody are NaN."""
    inputs, num_blocks = ragged_inputs(rng, spans, block_size)
    size = (num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    keys, decoded_keys = random_plane(rng, size, kind, TYPES[dtype])
    values, decoded_values = random_plane(rng, size, kind, TYPES[dtype])
    num_rows = sum(rows for rows, _ in spans)
    q = torch.from_numpy(rng.standard_normal((num_rows, shape.num_heads * shape.head_dim), dtype=np.float32))
    q_TD = q.to(TYPES[dtype]).float().numpy()
    return PagedCase(q_TD, keys, values, decoded_keys, decoded_values, inputs, shape, TYPES[dtype])


def ragged_inputs(rng: np.random.Generator, spans: list[tuple[int, int]], block_size: int) -> tuple[StepInputs, int]:
    counts = [-(-context // block_size) for _, context in spans]
    num_blocks = sum(counts) + 3
    order = rng.permutation(num_blocks).astype(np.int32)
    tables = np.full((len(spans), max(counts) + 1), 1 << 30, np.int32)  # behind a context: anything
    positions, slots, used = [], [], 0
    for sequence, ((rows, context), count) in enumerate(zip(spans, counts, strict=True)):
        tables[sequence, :count] = order[used : used + count]
        used += count
        here = np.arange(context - rows, context)
        positions.append(here)
        slots.append(tables[sequence, here // block_size] * block_size + here % block_size)
    starts = np.cumsum([0] + [rows for rows, _ in spans]).astype(np.int32)
    inputs = StepInputs(
        token_ids_T=np.zeros(starts[-1], np.int32),
        positions_T=np.concatenate(positions).astype(np.int32),
        slots_T=np.concatenate(slots).astype(np.int32),
        query_starts_B1=starts,
        context_lens_B=np.array([context for _, context in spans], np.int32),
        block_tables_BX=tables,
        sampled_rows_S=np.zeros(0, np.int32),
    )
    return inputs, num_blocks


def random_plane(
    rng: np.random.Generator, size: tuple[int, int, int, int], kind: str, dtype: torch.dtype
) -> tuple[PagedPlane, np.ndarray]:
    """A plane [blocks, S, G, K] and what it stands for, float32 [blocks, G, S, K]."""
    if kind == "float":
        values = torch.from_numpy(rng.standard_normal(size, dtype=np.float32)).to(dtype)
        return float_plane(values.to(DEVICE)), values.float().permute(0, 2, 1, 3).contiguous().numpy()
    blocks, places, heads, dim = size
    if kind.startswith("fp8"):
        bits = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))
        bits = torch.where(bits & 127 == 127, 0, bits)  # not a number
        scale = torch.from_numpy(rng.uniform(0.003, 0.01, (*size[:3], 1)).astype(np.float32)).bfloat16()
        decoded = bits.view(torch.float8_e4m3fn).float() * scale.float()
        plane = fp8_plane(bits.to(DEVICE), scale.to(DEVICE), is_native=kind == "fp8_native")
        return plane, decoded.permute(0, 2, 1, 3).contiguous().numpy()
    groups = 1 if kind == "int8" else dim // 32
    levels = torch.from_numpy(rng.integers(0, 256 if kind == "int8" else 16, size, dtype=np.uint8))
    scale = torch.from_numpy(rng.uniform(0.5, 1.5, (blocks, places, heads, groups)).astype(np.float32))
    scale = (scale * (4 / (255 if kind == "int8" else 15))).bfloat16()
    minimum = torch.from_numpy(rng.uniform(-2.5, -1.5, scale.shape).astype(np.float32)).bfloat16()
    ranges = torch.stack([scale, minimum], dim=-1)
    grouped = levels.reshape(*size[:3], groups, dim // groups).float()
    decoded = (grouped * scale.float()[..., None] + minimum.float()[..., None]).reshape(size)
    if kind == "int8":
        plane = int8_plane(levels.to(DEVICE), ranges[..., 0, :].to(DEVICE))
    else:
        pairs = levels.reshape(*size[:3], groups, 2, 16)
        plane = int4_plane((pairs[..., 0, :] | pairs[..., 1, :] << 4).to(DEVICE), ranges.to(DEVICE))
    return plane, decoded.permute(0, 2, 1, 3).contiguous().numpy()
