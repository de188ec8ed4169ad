"""What single rows of logits carry beside them: masks of grammars, histories for penalties, biases.

Shape letters: S rows, V vocabulary, E entries of all rows, R masks, W words of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.core.errors import EngineError
from vivace.ops.backend import Int32Array, SampleInputs


@dataclass(frozen=True, slots=True)
class SparseRows:
    """Entries (token, value) of each row: those of row s are starts_S1[s] : starts_S1[s + 1]."""

    starts_S1: Int32Array
    tokens_E: Int32Array
    values_E: NDArray[Any]

    @classmethod
    def history(cls, inputs: SampleInputs) -> SparseRows:
        return cls(inputs.history_starts_S1, inputs.history_tokens, inputs.history_counts)

    @classmethod
    def bias(cls, inputs: SampleInputs) -> SparseRows:
        return cls(inputs.bias_starts_S1, inputs.bias_tokens, inputs.bias_values)

    def check(self, num_rows: int, vocabulary: int) -> None:
        starts, count = self.starts_S1, len(self.tokens_E)
        if len(starts) != num_rows + 1 or starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
            raise EngineError("sampling was refused: starts do not divide their entries among the rows")
        if count and not 0 <= self.tokens_E.min() <= self.tokens_E.max() < vocabulary:
            raise EngineError("sampling was refused: a token is outside the vocabulary")

    def of(self, rows: slice, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Row, token and value of each entry of these rows, on the device; rows count from the slice's first."""
        starts = self.starts_S1[rows.start : rows.stop + 1]
        span = slice(int(starts[0]), int(starts[-1]))
        row_E = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        columns = (row_E, self.tokens_E[span].astype(np.int64), self.values_E[span].astype(np.float64))
        row, token, value = (torch.from_numpy(column).to(device, non_blocking=True) for column in columns)
        return row, token, value


def masked(logits_SV: Tensor, inputs: SampleInputs, rows: slice) -> Tensor:
    """Minus infinity on every token that a row's mask does not allow."""
    index_S = inputs.mask_index_S[rows]
    if not (index_S >= 0).any():
        return logits_SV
    device = logits_SV.device
    words_RW = inputs.mask_RW[index_S[index_S >= 0]].view(np.int32)  # only what these rows need travels
    shifts = torch.arange(32, dtype=torch.int32, device=device)
    bits = torch.from_numpy(words_RW).to(device, non_blocking=True)[:, :, None] >> shifts & 1
    allowed_RV = bits.flatten(1)[:, : logits_SV.shape[1]] != 0
    number_S = torch.from_numpy(np.flatnonzero(index_S >= 0)).to(device, non_blocking=True)
    result_SV = logits_SV.clone()
    result_SV[number_S] = torch.where(allowed_RV, logits_SV[number_S], -torch.inf)
    return result_SV


def penalized(logits_SV: Tensor, inputs: SampleInputs, rows: slice) -> Tensor:
    """Repetition penalty, frequency and presence penalties, then the bias."""
    device = logits_SV.device
    if len(inputs.history_tokens):
        row_E, token_E, count_E = SparseRows.history(inputs).of(rows, device)
        repetition_E, frequency_E, presence_E = (
            torch.from_numpy(values_S[rows].astype(np.float64)).to(device, non_blocking=True)[row_E]
            for values_S in (inputs.repetition_S, inputs.frequency_S, inputs.presence_S)
        )
        seen_E = logits_SV[row_E, token_E]
        seen_E = torch.where(seen_E > 0, seen_E / repetition_E, seen_E * repetition_E)
        seen_E = seen_E - frequency_E * count_E - presence_E * (count_E > 0)
        logits_SV = logits_SV.index_put((row_E, token_E), seen_E)
    if len(inputs.bias_tokens):
        row_E, token_E, value_E = SparseRows.bias(inputs).of(rows, device)
        logits_SV = logits_SV.index_put((row_E, token_E), value_E, accumulate=True)
    return logits_SV
