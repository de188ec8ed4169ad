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

from vivace.backends.cuda.sampling_rows import SamplingRows
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


def adjusted(logits_SV: Tensor, rows: SamplingRows) -> Tensor:
    """Masks, penalties and biases. The logits themselves where nobody has any; else a copy."""
    if rows.has_masks:
        logits_SV = _masked(logits_SV, rows)
    if rows.has_history:
        logits_SV = _penalized(logits_SV, rows)
    if rows.has_bias:
        at = rows["bias_rows"].long(), rows["bias_tokens"].long()
        logits_SV = logits_SV.index_put(at, rows.floats("bias_values").to(logits_SV.dtype), accumulate=True)
    return logits_SV


def _masked(logits_SV: Tensor, rows: SamplingRows) -> Tensor:
    """Minus infinity on every token that a row's mask does not allow."""
    shifts = torch.arange(32, dtype=torch.int32, device=logits_SV.device)
    bits = rows["mask_words"][:, :, None] >> shifts & 1
    allowed_RV = bits.flatten(1)[:, : logits_SV.shape[1]] != 0
    masked_R = rows["mask_rows"].long()
    return logits_SV.index_put((masked_R,), torch.where(allowed_RV, logits_SV[masked_R], -torch.inf))


def _penalized(logits_SV: Tensor, rows: SamplingRows) -> Tensor:
    """Repetition penalty, frequency and presence penalties: in float64, of few numbers."""
    row_E, token_E, count_E = (rows[name].long() for name in ("history_rows", "history_tokens", "history_counts"))
    drawn_S = rows.drawn_tokens()
    if drawn_S is not None:
        is_drawn_E = drawn_S[row_E] == token_E
        count_E = count_E + is_drawn_E
    seen_E = _penalty(logits_SV[row_E, token_E], row_E, count_E, rows)
    result_SV = logits_SV.index_put((row_E, token_E), seen_E)
    if drawn_S is None:
        return result_SV
    known_S = torch.zeros_like(drawn_S).index_add(0, row_E, is_drawn_E.long())
    row_S, token_S = torch.arange(len(drawn_S), device=drawn_S.device), drawn_S.clamp(min=0)
    new_S = _penalty(logits_SV[row_S, token_S], row_S, torch.ones_like(row_S), rows)
    is_new_S = (drawn_S >= 0) & (known_S == 0)
    return result_SV.index_put((row_S, token_S), torch.where(is_new_S, new_S, result_SV[row_S, token_S]))


def _penalty(seen_E: Tensor, row_E: Tensor, count_E: Tensor, rows: SamplingRows) -> Tensor:
    repetition_E, frequency_E, presence_E = (
        rows.floats(name).double()[row_E] for name in ("repetition", "frequency", "presence")
    )
    value_E = seen_E.double()
    value_E = torch.where(value_E > 0, value_E / repetition_E, value_E * repetition_E)
    return (value_E - frequency_E * count_E - presence_E * (count_E > 0)).to(seen_E.dtype)
