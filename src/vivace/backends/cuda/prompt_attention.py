"""Attention of prompts by libraries: torch's scaled_dot_product_attention, FlashInfer, flash-attn.

Rows that decode and guesses are not given to them: those run in CUDA graphs, over contexts that are cut at fixed
positions. Each library is called as it is published: FlashInfer's `BatchPrefillWithPagedKVCacheWrapper` (Ye et al.,
2025, arXiv:2501.01005) and flash-attn's `flash_attn_varlen_func` (Dao, 2023, arXiv:2307.08691) read the cache in
place through block tables; torch's function takes keys and values side by side, so it gets prompts without cached
context.

Shape letters: R rows of prompts, N prompts, S places of a block, H query heads, G KV heads, K head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.prompt_rows import PromptRows

FLASHINFER_WORKSPACE_BYTES = 128 << 20  # as its documentation advises
FLASH_ATTN_PAGE = 256  # tokens: its pages are multiples


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """`dtype`: of the cache's floats."""

    shape: AttentionShape
    block_size: int
    dtype: torch.dtype

    @property
    def complaint_of_16_bits(self) -> str | None:
        """For what reads 16-bit floats alone."""
        if self.dtype in (torch.bfloat16, torch.float16):
            return None
        return f"it reads caches of 16-bit floats, not of {str(self.dtype).removeprefix('torch.')}"


class PromptAttention(Protocol):
    name: str
    least_rows: int  # of a prompt that is worth it
    reads_context: bool  # else it is given prompts without cached context, and none longer than a window

    def reason(self, layer: CachedLayer) -> str | None:
        """Why it does not compute such layers; None where it does."""
        ...

    def attend(
        self, q_TD: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, shape: AttentionShape, out_TD: Tensor
    ) -> None:
        """Fills the prompts' rows of `out_TD` [T, H*K]. keys, values: [blocks, S, G, K]."""
        ...


class SdpaPrompts:
    """torch's own: cuDNN's or FlashAttention's kernel, whichever torch has for the device."""

    name = "sdpa"

    reads_context = False

    def __init__(self, least_rows: int) -> None:
        self.least_rows = least_rows

    def reason(self, layer: CachedLayer) -> str | None:
        if layer.shape.softcap is not None:
            return "torch's function caps no scores"
        dim = layer.shape.head_dim
        return None if dim <= 256 else f"heads of {dim} dimensions; its kernels take 256"

    def attend(
        self, q_TD: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, shape: AttentionShape, out_TD: Tensor
    ) -> None:
        for first, count in zip(rows.plan.firsts_N.tolist(), rows.plan.counts_N.tolist(), strict=True):
            slots_R = rows.slots_T[first : first + count]  # without cached context they are all of the prompt's
            q_HRK = q_TD[first : first + count].unflatten(1, (shape.num_heads, shape.head_dim)).transpose(0, 1)
            k_GRK, v_GRK = (plane.flatten(0, 1)[slots_R].transpose(0, 1) for plane in (keys, values))
            out_1HRK = scaled_dot_product_attention(
                q_HRK[None], k_GRK[None], v_GRK[None],
                is_causal=True, scale=shape.scale, enable_gqa=shape.num_heads != shape.num_kv_heads,
            )  # fmt: skip
            out_TD[first : first + count] = out_1HRK[0].transpose(0, 1).flatten(1)


class FlashInferPrompts:
    """A wrapper for each kind of layer: it plans a step's work once, which all layers of the kind then share."""

    name = "flashinfer"
    least_rows = 1
    reads_context = True

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._workspace: Tensor | None = None  # of all wrappers: they run one after the other
        self._wrappers: dict[AttentionShape, Any] = {}
        self._planned: dict[AttentionShape, PromptRows] = {}

    def reason(self, layer: CachedLayer) -> str | None:
        dim = layer.shape.head_dim
        return layer.complaint_of_16_bits or (
            None if dim in (64, 128, 256) else f"it takes heads of 64, 128 or 256 dimensions, not {dim}"
        )

    def attend(
        self, q_TD: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, shape: AttentionShape, out_TD: Tensor
    ) -> None:
        if self._planned.get(shape) is not rows:
            self._plan(rows, shape, keys)
            self._planned[shape] = rows
        q_RHK = q_TD[rows.rows_R].unflatten(1, (shape.num_heads, shape.head_dim))
        out_RHK = self._wrappers[shape].run(q_RHK, (keys, values))
        out_TD.index_copy_(0, rows.rows_R, out_RHK.flatten(1))

    def _plan(self, rows: PromptRows, shape: AttentionShape, keys: Tensor) -> None:
        if shape not in self._wrappers:
            if self._workspace is None:
                self._workspace = torch.empty(FLASHINFER_WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)
            self._wrappers[shape] = self._module.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        plan, size = rows.plan, keys.shape[1]
        blocks_N = -(-plan.contexts_N // size)
        used = [table[:count] for table, count in zip(plan.tables_NX, blocks_N.tolist(), strict=True)]
        self._wrappers[shape].plan(
            _starts(plan.counts_N),
            _starts(blocks_N),
            torch.from_numpy(np.concatenate(used)).to(self._device),
            torch.from_numpy((plan.contexts_N - (blocks_N - 1) * size).astype(np.int32)),
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            size,
            causal=True,
            sm_scale=shape.scale,
            window_left=-1 if shape.window is None else shape.window - 1,
            logits_soft_cap=shape.softcap,
            q_data_type=keys.dtype,
            kv_data_type=keys.dtype,
        )


class FlashAttnPrompts:
    name = "flash_attn"
    least_rows = 1
    reads_context = True

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._sent: tuple[PromptRows, tuple[Tensor, Tensor, Tensor]] | None = None

    def reason(self, layer: CachedLayer) -> str | None:
        dim = layer.shape.head_dim
        if layer.block_size % FLASH_ATTN_PAGE:
            return f"it reads blocks of {FLASH_ATTN_PAGE} tokens or a multiple: --block-size {FLASH_ATTN_PAGE}"
        return layer.complaint_of_16_bits or (None if dim <= 256 else f"heads of {dim} dimensions; it takes 256")

    def attend(
        self, q_TD: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, shape: AttentionShape, out_TD: Tensor
    ) -> None:
        if self._sent is None or self._sent[0] is not rows:
            self._sent = rows, self._arrays(rows, keys.shape[1])
        query_starts, key_starts, tables = self._sent[1]
        out_RHK = self._module.flash_attn_varlen_func(
            q_TD[rows.rows_R].unflatten(1, (shape.num_heads, shape.head_dim)),
            keys,
            values,
            query_starts,
            key_starts,
            int(rows.plan.counts_N.max()),
            int(rows.plan.contexts_N.max()),
            softmax_scale=shape.scale,
            causal=True,
            window_size=(-1, -1) if shape.window is None else (shape.window - 1, 0),
            softcap=shape.softcap or 0.0,
            block_table=tables,
        )
        out_TD.index_copy_(0, rows.rows_R, out_RHK.flatten(1))

    def _arrays(self, rows: PromptRows, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
        plan = rows.plan
        width = -(-int(plan.contexts_N.max()) // block_size)
        is_used_NX = np.arange(width) * block_size < plan.contexts_N[:, None]
        tables_NX = np.where(is_used_NX, plan.tables_NX[:, :width], 0).astype(np.int32)
        query_starts, key_starts = (_starts(counts).to(self._device) for counts in (plan.counts_N, plan.contexts_N))
        return query_starts, key_starts, torch.from_numpy(tables_NX).to(self._device)


def _starts(counts_N: Any) -> Tensor:
    """int32 [N + 1] on the host."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32))
