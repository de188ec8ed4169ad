"""Sampling on the device, all rows at once: the steps and ties of `vivace.ops.reference_sampling`, in float64.

The host sees one array of token ids a step, which is the step's only synchronisation. Rows are taken in slices, so
that temporaries stay small. Shape letters: S rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.backends.cuda.sparse_rows import SparseRows, masked, penalized
from vivace.core.errors import EngineError
from vivace.ops.backend import Int32Array, SampleInputs
from vivace.ops.reference_sampling import NO_TOKEN

SLICE_ELEMENTS = 1 << 23  # 64 MiB of float64, some six times


def sample(logits_SV: Tensor, inputs: SampleInputs) -> Int32Array:
    """Token ids [S]; -1 for a row without any finite logit. Raises `EngineError` for arrays that do not fit."""
    num_rows, vocabulary = logits_SV.shape
    check(inputs, num_rows, vocabulary)
    if not num_rows:
        return np.zeros(0, np.int32)
    at_once = max(1, SLICE_ELEMENTS // vocabulary)
    parts = []
    for start in range(0, num_rows, at_once):
        rows = slice(start, min(start + at_once, num_rows))
        parts.append(_sample_rows(logits_SV[rows], inputs, rows))
    tokens_S: Int32Array = torch.cat(parts).int().cpu().numpy()
    return tokens_S


def _sample_rows(logits_SV: Tensor, inputs: SampleInputs, rows: slice) -> Tensor:
    device = logits_SV.device
    logits_SV = masked(logits_SV.double(), inputs, rows)
    logits_SV = penalized(logits_SV, inputs, rows)
    logits_SV = torch.where(torch.isfinite(logits_SV), logits_SV, -torch.inf)
    largest_S1 = logits_SV.amax(dim=1, keepdim=True)
    chosen_S = first_true(logits_SV == largest_S1)
    temperature_S = inputs.temperature_S[rows]
    if temperature_S.any():
        temperature_S1 = _column(temperature_S, device)
        safe_S1 = torch.where(temperature_S1 == 0, 1.0, temperature_S1)
        weights_SV = torch.exp((logits_SV - largest_S1) / safe_S1)
        drawn_S = _draw(weights_SV * _kept(weights_SV, inputs, rows), _column(inputs.uniform_S[rows], device))
        chosen_S = torch.where(temperature_S1[:, 0] == 0, chosen_S, drawn_S)
    return torch.where(torch.isfinite(largest_S1[:, 0]), chosen_S, NO_TOKEN)


def first_true(x_SV: Tensor) -> Tensor:
    """The lowest column that is true; the number of columns where none is."""
    columns_V = torch.arange(x_SV.shape[1], device=x_SV.device)
    return torch.where(x_SV, columns_V, x_SV.shape[1]).amin(dim=1)


def _kept(weights_SV: Tensor, inputs: SampleInputs, rows: slice) -> Tensor:
    """Which tokens may be drawn. Rows are sorted only where a row's top-k or top-p asks for it."""
    device = weights_SV.device
    top_k_S, top_p_S, min_p_S = inputs.top_k_S[rows], inputs.top_p_S[rows], inputs.min_p_S[rows]
    likely_SV = weights_SV >= _column(min_p_S, device)  # the largest weight is 1
    if not top_k_S.any() and not (top_p_S < 1).any():
        return likely_SV
    sorted_SV, order_SV = torch.sort(weights_SV, dim=1, descending=True, stable=True)
    ranks_V = torch.arange(weights_SV.shape[1], device=device)
    unlimited_S = np.where(top_k_S > 0, top_k_S, weights_SV.shape[1]).astype(np.float64)
    kept_SV = (ranks_V < _column(unlimited_S, device)) & (sorted_SV >= _column(min_p_S, device))
    mass_SV = torch.cumsum(sorted_SV * kept_SV, dim=1)
    top_p_S1 = _column(top_p_S, device)
    # The shortest prefix with at least that mass: ranks before which less than it has come together.
    before_SV = torch.cat([torch.zeros_like(mass_SV[:, :1]), mass_SV[:, :-1]], dim=1)
    kept_SV &= (top_p_S1 >= 1) | (ranks_V == 0) | (before_SV < top_p_S1 * mass_SV[:, -1:])
    return torch.zeros_like(likely_SV).scatter_(1, order_SV, kept_SV)


def _draw(weights_SV: Tensor, uniform_S1: Tensor) -> Tensor:
    """Inverse CDF in the order of ids: the first token whose cumulated weight exceeds uniform * total."""
    mass_SV = torch.cumsum(weights_SV, dim=1)
    above_S = first_true(mass_SV > uniform_S1 * mass_SV[:, -1:])
    last_S = weights_SV.shape[1] - 1 - first_true((weights_SV > 0).flip(1))
    return torch.minimum(above_S, last_S)


def _column(values_S: NDArray[np.floating], device: torch.device) -> Tensor:
    """[S, 1], float64."""
    return torch.from_numpy(values_S.astype(np.float64)).to(device, non_blocking=True)[:, None]


def check(inputs: SampleInputs, num_rows: int, vocabulary: int) -> None:
    """A token outside the vocabulary would be an error on the device, from which no later step recovers."""
    columns = (inputs.temperature_S, inputs.top_k_S, inputs.top_p_S, inputs.min_p_S, inputs.uniform_S)
    if any(len(column) != num_rows for column in columns):
        raise EngineError(f"sampling was refused: parameters need one entry for each row of {num_rows}")
    for sparse in (SparseRows.history(inputs), SparseRows.bias(inputs)):
        sparse.check(num_rows, vocabulary)
    if not len(inputs.mask_index_S):
        return
    if len(inputs.mask_index_S) != num_rows:
        raise EngineError(f"sampling was refused: masks need one entry for each row of {num_rows}")
    if inputs.mask_RW.shape[1] != -(-vocabulary // 32):
        raise EngineError("sampling was refused: a mask has one bit for each token")
    if inputs.mask_index_S.min() < -1 or inputs.mask_index_S.max() >= len(inputs.mask_RW):
        raise EngineError("sampling was refused: a row names a mask that is not there")
