"""Log probabilities on the device: `vivace.ops.reference_sampling.top_logprobs` for all rows at once, in float64.

Shape letters: S rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.backends.cuda.sampling import SLICE_ELEMENTS
from vivace.core.errors import EngineError
from vivace.ops.backend import Int32Array, TopLogprobs


def table_of(logits_SV: Tensor, tokens_S: Tensor, k: int) -> Tensor:
    """[S, 3 + 2 K], float64, on the device: token, its log probability and rank, ids, log probabilities.

    Values of the raw log-softmax; a token of -1 gets -inf and rank 0. float64 holds ids exactly: one table, one copy.
    """
    at_once = max(1, SLICE_ELEMENTS // logits_SV.shape[1])
    parts = [
        _of_rows(logits_SV[start : start + at_once], tokens_S[start : start + at_once].long()[:, None], k)
        for start in range(0, len(logits_SV), at_once)
    ]
    return torch.cat([tokens_S[:, None].double(), torch.cat(parts)], dim=1)


def read_table(table: NDArray[np.float64], k: int) -> tuple[Int32Array, TopLogprobs]:
    """Tokens and what `TopLogprobs` says of them."""
    ids_SK, values_SK = table[:, 3 : 3 + k].astype(np.int32), table[:, 3 + k :].astype(np.float32)
    top = TopLogprobs(table[:, 1].astype(np.float32), table[:, 2].astype(np.int32), ids_SK, values_SK)
    return table[:, 0].astype(np.int32), top


def check(tokens_S: Int32Array, num_rows: int, k: int, vocabulary: int) -> None:
    """Raises `EngineError` for tokens or a `k` outside the vocabulary."""
    is_inside = not num_rows or (tokens_S.min() >= -1 and tokens_S.max() < vocabulary)
    if len(tokens_S) != num_rows or not 0 <= k <= vocabulary or not is_inside:
        raise EngineError(f"top_logprobs was refused: tokens or k = {k} are outside the vocabulary of {vocabulary}")


def _of_rows(logits_SV: Tensor, tokens_S1: Tensor, k: int) -> Tensor:
    """[S, 2 + 2 K]: log probability, rank, ids, log probabilities."""
    logprobs_SV = _log_softmax(logits_SV.double())
    is_token_S1 = tokens_S1 >= 0
    chosen_S1 = logprobs_SV.gather(1, tokens_S1.clamp(min=0))
    columns_V = torch.arange(logprobs_SV.shape[1], device=logits_SV.device)
    before_SV = (logprobs_SV > chosen_S1) | ((logprobs_SV == chosen_S1) & (columns_V < tokens_S1))
    rank_S1 = torch.where(is_token_S1, before_SV.sum(dim=1, keepdim=True) + 1, 0)
    chosen_S1 = torch.where(is_token_S1, chosen_S1, -torch.inf)
    values_SV, order_SV = torch.sort(logprobs_SV, dim=1, descending=True, stable=True)
    return torch.cat([chosen_S1, rank_S1.double(), order_SV[:, :k].double(), values_SV[:, :k]], dim=1)


def _log_softmax(logits_SV: Tensor) -> Tensor:
    logits_SV = torch.where(torch.isfinite(logits_SV), logits_SV, -torch.inf)
    largest_S1 = logits_SV.amax(dim=1, keepdim=True)
    shifted_SV = logits_SV - torch.where(torch.isfinite(largest_S1), largest_S1, 0.0)
    sums_S1 = shifted_SV.exp().sum(dim=1, keepdim=True)
    return torch.where(torch.isfinite(largest_S1), shifted_SV - sums_S1.log(), -torch.inf)
