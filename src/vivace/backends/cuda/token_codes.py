"""Rows rounded to 8 bits with a scale a token, as products with int8 or e4m3 matrices read them
(`vivace.ops.reference_activations`); by torch. `kernels.token_codes` gives the same.

Shape letters: T rows, D inputs, S steps of 128 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivace.ops.reference_activations import OUTLIER_MAGNITUDE, SMALLEST_MAGNITUDE
from vivace.ops.reference_kv import E4M3_LARGEST

INT8_LARGEST = 127.0
TOKEN_ENCODINGS = ("int8_channel", "int8_outlier", "fp8_channel")  # of matrices whose products take such rows


@dataclass(frozen=True, slots=True)
class TokenCodes:
    """Of rows that were of the type `dtype`. An outlier has the code 0.

    `codes_TD` int8, or uint8 of e4m3 numbers; `scales_T` float32: the largest magnitude / 127 or 448, NaN for rows
    not finite; `values_TD`: the rows, where outliers among them are kept; `outliers_TS` uint8, of the kernel's codes
    alone: whether any of a step's inputs is one.
    """

    codes_TD: Tensor
    scales_T: Tensor
    dtype: torch.dtype
    values_TD: Tensor | None = None
    outliers_TS: Tensor | None = None

    def __len__(self) -> int:
        return len(self.codes_TD)

    @property
    def device(self) -> torch.device:
        return self.codes_TD.device


ProductRows = Tensor | TokenCodes  # what a product takes: rows, or what has been made of them


def token_codes(x_TD: Tensor, encoding: str) -> TokenCodes:
    """For a product with a matrix of one of `TOKEN_ENCODINGS`."""
    single_TD, keeps_outliers = x_TD.float(), encoding == "int8_outlier"
    if keeps_outliers:
        single_TD = torch.where(single_TD.abs() >= OUTLIER_MAGNITUDE, 0, single_TD)
    if encoding == "fp8_channel":
        scaled_TD, scales_T = _over_largest(single_TD, E4M3_LARGEST)
        codes_TD = scaled_TD.to(torch.float8_e4m3fn).view(torch.uint8)
    else:
        scaled_TD, scales_T = _over_largest(single_TD, INT8_LARGEST)
        codes_TD = torch.round(scaled_TD).to(torch.int8)
    return TokenCodes(codes_TD, scales_T, x_TD.dtype, x_TD if keeps_outliers else None)


def _over_largest(x_TD: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Rows over their scales, from -most to most, 0 where a row is not finite; the scales [T], NaN there."""
    largest_T1 = x_TD.abs().amax(dim=1, keepdim=True)
    divisor = torch.full((), most, device=x_TD.device)  # a tensor: torch multiplies by the inverse of a number
    scale_T1 = torch.where(largest_T1 < SMALLEST_MAGNITUDE, 0.0, largest_T1 / divisor)
    inverse_T1 = torch.where(scale_T1 == 0, 0.0, torch.reciprocal(scale_T1))
    is_finite_T1 = torch.isfinite(largest_T1)
    scaled_TD = torch.nan_to_num(x_TD * inverse_T1).clamp(-most, most)
    return torch.where(is_finite_T1, scaled_TD, 0.0), torch.where(is_finite_T1, scale_T1, torch.nan)[:, 0]
