"""Stand-ins for FlashInfer and flash-attn: modules of the interface that they publish, which compute with torch.

They show that arguments are handed over as documented, not that the libraries run: no machine with a GPU was at hand.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from triton_interpreter import torch


def install(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def attend(q_RHK: Any, k_CGK: Any, v_CGK: Any, scale: float, left: int, cap: float) -> Any:
    """Causal, aligned to the last row; `left`: positions before its own that a row sees, -1 for all."""
    rows, positions = len(q_RHK), len(k_CGK)
    heads = q_RHK.shape[1] // k_CGK.shape[1]
    k, v = (part.float().repeat_interleave(heads, dim=1) for part in (k_CGK, v_CGK))
    scores = torch.einsum("rhk,chk->hrc", q_RHK.float(), k) * scale
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    at, position = torch.arange(positions - rows, positions)[:, None], torch.arange(positions)
    hidden = (position > at) | ((position < at - left) if left >= 0 else False)
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
    return torch.einsum("hrc,chk->rhk", weights, v).to(q_RHK.dtype)


class PagedPrefill:
    """`flashinfer.BatchPrefillWithPagedKVCacheWrapper`, as far as it is used."""

    num_plans = 0

    def __init__(self, float_workspace_buffer: Any, kv_layout: str = "NHD") -> None:
        assert (float_workspace_buffer.dtype, kv_layout) == (torch.uint8, "NHD")

    def plan(
        self, qo_indptr: Any, paged_kv_indptr: Any, paged_kv_indices: Any, paged_kv_last_page_len: Any,
        num_qo_heads: int, num_kv_heads: int, head_dim_qk: int, page_size: int, *,
        causal: bool = False, sm_scale: float | None = None, window_left: int = -1,
        logits_soft_cap: float | None = None, q_data_type: Any = "float16", kv_data_type: Any = None,
    ) -> None:  # fmt: skip
        type(self).num_plans += 1
        assert causal
        assert q_data_type == kv_data_type
        tensors = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert all(tensor.dtype == torch.int32 for tensor in tensors)
        self.starts, self.pages, self.indices, self.last = (tensor.tolist() for tensor in tensors)
        self.sizes = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        self.options = (sm_scale, window_left, logits_soft_cap or 0.0)

    def run(self, q: Any, paged_kv_cache: tuple[Any, Any]) -> Any:
        num_qo_heads, num_kv_heads, head_dim, page_size = self.sizes
        assert q.shape[1:] == (num_qo_heads, head_dim)
        assert paged_kv_cache[0].shape[1:] == (page_size, num_kv_heads, head_dim)
        parts = []
        for n, last in enumerate(self.last):
            pages = self.indices[self.pages[n] : self.pages[n + 1]]
            length = (len(pages) - 1) * page_size + last
            k, v = (plane[pages].flatten(0, 1)[:length] for plane in paged_kv_cache)
            parts.append(attend(q[self.starts[n] : self.starts[n + 1]], k, v, *self.options))
        return torch.cat(parts)


def flash_attn_varlen_func(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int, *,
    softmax_scale: float, causal: bool, window_size: tuple[int, int], softcap: float, block_table: Any,
) -> Any:  # fmt: skip
    """`flash_attn.flash_attn_varlen_func`, as far as it is used."""
    assert causal
    assert all(array.dtype == torch.int32 for array in (cu_seqlens_q, cu_seqlens_k, block_table))
    starts, key_starts = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    assert max_seqlen_q == max(b - a for a, b in pairwise(starts))
    assert max_seqlen_k == max(b - a for a, b in pairwise(key_starts))
    parts = []
    for n, table in enumerate(block_table.tolist()):
        length = key_starts[n + 1] - key_starts[n]
        keys, values = (plane[table].flatten(0, 1)[:length] for plane in (k, v))
        parts.append(attend(q[starts[n] : starts[n + 1]], keys, values, softmax_scale, window_size[0], softcap))
    return torch.cat(parts)
