"""Sampling on the device, all rows at once: the steps and ties of `vivace.ops.reference_sampling`, in float64.

Nothing here waits for the device. Rows are taken in slices, so that temporaries stay small. Where Triton runs,
`kernels/sampling` does this in float32 and without a sort. Shape letters: S rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivace.backends.cuda.sampling_rows import SamplingRows, send_rows
from vivace.backends.cuda.sparse_rows import SparseRows, adjusted
from vivace.backends.cuda.transfer import Upload
from vivace.core.errors import EngineError
from vivace.ops.backend import SampleInputs
from vivace.ops.reference_sampling import NO_TOKEN

SLICE_ELEMENTS = 1 << 23  # 64 MiB of float64, some six times


def sample(logits_SV: Tensor, inputs: SampleInputs, drawn: Tensor | None, upload: Upload) -> Tensor:
    """Token ids [S] on the device, int64; -1 for a row without any finite logit."""
    num_rows, vocabulary = logits_SV.shape
    at_once = max(1, SLICE_ELEMENTS // vocabulary)
    parts = []
    for start in range(0, num_rows, at_once):
        rows = slice(start, min(start + at_once, num_rows))
        sent = send_rows(inputs, rows, drawn, upload)
        parts.append(_sample_rows(logits_SV[rows], inputs, sent, rows))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sample_rows(logits_SV: Tensor, inputs: SampleInputs, sent: SamplingRows, rows: slice) -> Tensor:
    logits_SV = adjusted(logits_SV.double(), sent)
    logits_SV = torch.where(torch.isfinite(logits_SV), logits_SV, -torch.inf)
    largest_S1 = logits_SV.amax(dim=1, keepdim=True)
    chosen_S = first_true(logits_SV == largest_S1)
    if inputs.temperature_S[rows].any():
        temperature_S1 = _column(sent, "temperature")
        safe_S1 = torch.where(temperature_S1 == 0, 1.0, temperature_S1)
        weights_SV = torch.exp((logits_SV - largest_S1) / safe_S1)
        drawn_S = _draw(weights_SV * _kept(weights_SV, inputs, sent, rows), _column(sent, "uniform"))
        chosen_S = torch.where(temperature_S1[:, 0] == 0, chosen_S, drawn_S)
    return torch.where(torch.isfinite(largest_S1[:, 0]), chosen_S, NO_TOKEN)


def first_true(x_SV: Tensor) -> Tensor:
    """The lowest column that is true; the number of columns where none is."""
    columns_V = torch.arange(x_SV.shape[1], device=x_SV.device)
    return torch.where(x_SV, columns_V, x_SV.shape[1]).amin(dim=1)


def _kept(weights_SV: Tensor, inputs: SampleInputs, sent: SamplingRows, rows: slice) -> Tensor:
    """Which tokens may be drawn. Rows are sorted only where a row's top-k or top-p asks for it."""
    device, num_tokens = weights_SV.device, weights_SV.shape[1]
    min_p_S1 = _column(sent, "min_p")
    likely_SV = weights_SV >= min_p_S1  # the largest weight is 1
    if not inputs.top_k_S[rows].any() and not (inputs.top_p_S[rows] < 1).any():
        return likely_SV
    sorted_SV, order_SV = torch.sort(weights_SV, dim=1, descending=True, stable=True)
    ranks_V = torch.arange(num_tokens, device=device)
    top_k_S1 = sent["top_k"][:, None]
    kept_SV = (ranks_V < torch.where(top_k_S1 > 0, top_k_S1, num_tokens)) & (sorted_SV >= min_p_S1)
    mass_SV = torch.cumsum(sorted_SV * kept_SV, dim=1)
    top_p_S1 = _column(sent, "top_p")
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


def _column(sent: SamplingRows, name: str) -> Tensor:
    """[S, 1], float64."""
    return sent.floats(name).double()[:, None]


def check(inputs: SampleInputs, num_rows: int, vocabulary: int) -> None:
    """A token outside the vocabulary would be an error on the device, from which no later step recovers. Raises
    `EngineError`."""
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
