"""Log probabilities on the device: `vivace.ops.reference_sampling.top_logprobs` for all rows at once, in float64.

Shape letters: S rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.sampling import SLICE_ELEMENTS
from vivace.core.errors import EngineError
from vivace.ops.backend import Int32Array, TopLogprobs


def table_of(logits_SV: Tensor, tokens_S: Tensor, k: int) -> Tensor:
    """[S, 3 + 2 K] on the device, for one copy: token, its log probability and rank, ids, log probabilities; int32,
    numbers by their float32 bits.

    Values of the raw log-softmax; a token of -1 gets -inf and rank 0.
    """
    at_once = max(1, SLICE_ELEMENTS // logits_SV.shape[1])
    parts = [
        _of_rows(logits_SV[start : start + at_once], tokens_S[start : start + at_once].long()[:, None], k)
        for start in range(0, len(logits_SV), at_once)
    ]
    return torch.cat([tokens_S[:, None].int(), torch.cat(parts)], dim=1)


def read_table(table: Int32Array, k: int) -> tuple[Int32Array, TopLogprobs]:
    """Tokens and what `TopLogprobs` says of them."""
    numbers = np.ascontiguousarray(table).view(np.float32)
    top = TopLogprobs(numbers[:, 1], table[:, 2], table[:, 3 : 3 + k], numbers[:, 3 + k :])
    return table[:, 0], top


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
    columns = (_bits(chosen_S1), rank_S1.int(), order_SV[:, :k].int(), _bits(values_SV[:, :k]))
    return torch.cat(columns, dim=1)


def _bits(numbers: Tensor) -> Tensor:
    return numbers.float().contiguous().view(torch.int32)


def _log_softmax(logits_SV: Tensor) -> Tensor:
    logits_SV = torch.where(torch.isfinite(logits_SV), logits_SV, -torch.inf)
    largest_S1 = logits_SV.amax(dim=1, keepdim=True)
    shifted_SV = logits_SV - torch.where(torch.isfinite(largest_S1), largest_S1, 0.0)
    sums_S1 = shifted_SV.exp().sum(dim=1, keepdim=True)
    return torch.where(torch.isfinite(largest_S1), shifted_SV - sums_S1.log(), -torch.inf)
