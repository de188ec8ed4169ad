"""Products that round their activations by definition: what they read a token's row as. NumPy.

int8_channel  W8A8: int8 with one scale a token, the largest magnitude / 127, found when the row is there
int8_outlier  LLM.int8() (Dettmers et al., 2022, arXiv:2208.07339): magnitudes of 6.0 and more stay floats, the
              others of the token are int8 with a scale of their own. The paper takes out a column where any token of
              the batch has an outlier; here a token's own decide, so that no result depends on the batch.

fp8_channel   e4m3 numbers with one scale a token, its largest magnitude / 448

The product is then exact: integers times the row's scale, float32 sums of what stays a float. (Layouts by groups of
32 inputs round activations too, but only as a kernel's approximation of the product with unrounded ones.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.ops.reference_kv import E4M3_LARGEST, nearest_e4m3

FloatArray = NDArray[Any]

OUTLIER_MAGNITUDE = 6.0
SMALLEST_MAGNITUDE = 1e-30  # a row of less than this reads as zeros: 1 / scale must be finite


def round_tokens(x_TD: FloatArray) -> FloatArray:
    """Each number at the nearest of 255 levels between minus and plus the row's largest magnitude, in x's dtype.

    The level is found in float32, so that it is the same wherever it is computed. Rows that are not finite give NaN.
    """
    single_TD = x_TD.astype(np.float32)
    largest_T1 = np.max(np.abs(single_TD), axis=1, keepdims=True)
    scale_T1 = np.where(largest_T1 < SMALLEST_MAGNITUDE, np.float32(0), largest_T1 / np.float32(127))
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse_T1 = np.where(scale_T1 == 0, np.float32(0), np.float32(1) / scale_T1)
        codes_TD = np.rint(single_TD * inverse_T1)
        rounded_TD = codes_TD.astype(x_TD.dtype) * scale_T1.astype(x_TD.dtype)
    return np.where(np.isfinite(largest_T1), rounded_TD, np.nan).astype(x_TD.dtype)


def round_inliers(x_TD: FloatArray) -> FloatArray:
    """As `round_tokens`, but magnitudes of 6.0 and more stay as they are and do not count for the scale."""
    is_outlier_TD = np.abs(x_TD.astype(np.float32)) >= OUTLIER_MAGNITUDE
    return np.where(is_outlier_TD, x_TD, round_tokens(np.where(is_outlier_TD, 0, x_TD)))


def round_tokens_fp8(x_TD: FloatArray) -> FloatArray:
    """As `round_tokens`, at the nearest e4m3 number, the row's largest magnitude at 448."""
    single_TD = x_TD.astype(np.float32)
    largest_T1 = np.max(np.abs(single_TD), axis=1, keepdims=True)
    scale_T1 = np.where(largest_T1 < SMALLEST_MAGNITUDE, np.float32(0), largest_T1 / np.float32(E4M3_LARGEST))
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse_T1 = np.where(scale_T1 == 0, np.float32(0), np.float32(1) / scale_T1)
        numbers_TD = nearest_e4m3(np.where(np.isfinite(largest_T1), single_TD * inverse_T1, np.float32(0)))
        rounded_TD = numbers_TD.astype(x_TD.dtype) * scale_T1.astype(x_TD.dtype)
    return np.where(np.isfinite(largest_T1), rounded_TD, np.nan).astype(x_TD.dtype)


ACTIVATION_ROUNDING = {
    "int8_channel": round_tokens,
    "int8_outlier": round_inliers,
    "fp8_channel": round_tokens_fp8,
}
