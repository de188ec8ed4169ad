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


def top_logprobs(logits_SV: Tensor, tokens_S: Int32Array, k: int) -> TopLogprobs:
    """Values of the raw log-softmax. A token of -1 gets -inf and rank 0. Raises `EngineError` for others outside."""
    num_rows, vocabulary = logits_SV.shape
    if len(tokens_S) != num_rows or not 0 <= k <= vocabulary or (num_rows and not _is_inside(tokens_S, vocabulary)):
        raise EngineError(f"top_logprobs was refused: tokens or k = {k} are outside the vocabulary of {vocabulary}")
    if not num_rows:
        none_SK = np.zeros((0, k), np.int32)
        return TopLogprobs(np.zeros(0, np.float32), np.zeros(0, np.int32), none_SK, none_SK.astype(np.float32))
    at_once = max(1, SLICE_ELEMENTS // vocabulary)
    parts = [
        _of_rows(logits_SV[start : start + at_once], tokens_S[start : start + at_once], k)
        for start in range(0, num_rows, at_once)
    ]
    table = torch.cat(parts).cpu().numpy()  # float64 holds ids exactly: one transfer for everything
    ids_SK, values_SK = table[:, 2 : 2 + k].astype(np.int32), table[:, 2 + k :].astype(np.float32)
    return TopLogprobs(table[:, 0].astype(np.float32), table[:, 1].astype(np.int32), ids_SK, values_SK)


def _is_inside(tokens_S: Int32Array, vocabulary: int) -> bool:
    return bool(tokens_S.min() >= -1 and tokens_S.max() < vocabulary)


def _of_rows(logits_SV: Tensor, tokens_S: Int32Array, k: int) -> Tensor:
    """[S, 2 + 2 K]: log probability, rank, ids, log probabilities."""
    device = logits_SV.device
    logprobs_SV = _log_softmax(logits_SV.double())
    tokens_S1 = torch.from_numpy(tokens_S.astype(np.int64)).to(device, non_blocking=True)[:, None]
    is_token_S1 = tokens_S1 >= 0
    chosen_S1 = logprobs_SV.gather(1, tokens_S1.clamp(min=0))
    columns_V = torch.arange(logprobs_SV.shape[1], device=device)
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
