"""Products with weights, and rows of them as embeddings, by torch: coded matrices are decoded a slice at a time.

Shape letters: T rows of activations, N outputs, D inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from vivace.backends.cuda.matrix import FloatMatrix, Fp8RowMatrix, Int8RowMatrix, Matrix
from vivace.backends.cuda.precision import Precision
from vivace.ops.reference_activations import OUTLIER_MAGNITUDE, SMALLEST_MAGNITUDE
from vivace.ops.reference_kv import E4M3_LARGEST

DECODED_ELEMENTS = 1 << 25  # of a slice: 64 MiB in bfloat16, some hundred more in temporaries


def product(x_TD: Tensor, matrix: Matrix, precision: Precision) -> Tensor:
    """[T, N], in the precision's own type or `precision.values`."""
    if matrix.order is not None:
        x_TD = x_TD[:, matrix.order]
    if isinstance(matrix, Int8RowMatrix):
        return _int8_product(x_TD, matrix, precision)
    if isinstance(matrix, Fp8RowMatrix):
        return _fp8_product(x_TD, matrix, precision)
    dtype = precision.of_product(matrix.dtype)
    x_TD = x_TD.to(dtype)
    if isinstance(matrix, FloatMatrix):
        return linear(x_TD, matrix.values_ND.to(dtype))
    return torch.cat([linear(x_TD, matrix.decode(rows).to(dtype)) for rows in _slices(matrix)], dim=1)


def embedding_rows(matrix: Matrix, ids_T: Tensor, precision: Precision) -> Tensor:
    """[T, D]: rows of the table, columns in the order of inputs, wide."""
    rows_TD = matrix.decode(ids_T).to(precision.wide)
    if matrix.order is None:
        return rows_TD
    ordered_TD = torch.empty_like(rows_TD)
    ordered_TD[:, matrix.order] = rows_TD
    return ordered_TD


def _slices(matrix: Matrix) -> list[slice]:
    height = max(1, DECODED_ELEMENTS // matrix.num_columns)
    return [slice(start, start + height) for start in range(0, matrix.num_rows, height)]


def _int8_product(x_TD: Tensor, matrix: Int8RowMatrix, precision: Precision) -> Tensor:
    """As `vivace.ops.reference_activations` defines it: int8 of a token times int8 of a row, and their two scales."""
    x_TD = x_TD.float()
    is_outlier_TD = (x_TD.abs() >= OUTLIER_MAGNITUDE) & matrix.keeps_outliers
    codes_TD, scale_T1 = token_codes(torch.where(is_outlier_TD, 0, x_TD))
    dtype, scales_N = precision.of_product(matrix.dtype), matrix.scales_N.to(precision.wide)
    sums = [linear(codes_TD.to(dtype), matrix.codes_ND[rows].to(dtype)) for rows in _slices(matrix)]
    out_TN = torch.cat(sums, dim=1).to(precision.wide) * scale_T1.to(precision.wide) * scales_N
    if not matrix.keeps_outliers:
        return out_TN
    outliers_TD = torch.where(is_outlier_TD, x_TD, 0).to(dtype)
    sums = [linear(outliers_TD, matrix.codes_ND[rows].to(dtype)) for rows in _slices(matrix)]
    return out_TN + torch.cat(sums, dim=1).to(precision.wide) * scales_N


def _fp8_product(x_TD: Tensor, matrix: Fp8RowMatrix, precision: Precision) -> Tensor:
    """e4m3 numbers of a token times those of a row, by tensor cores where they have them; and their two scales."""
    scaled_TD, scale_T1 = _over_largest(x_TD.float(), E4M3_LARGEST)
    codes_TD = scaled_TD.to(torch.float8_e4m3fn)
    codes_ND = matrix.codes_ND.view(torch.float8_e4m3fn)
    if x_TD.is_cuda and torch.cuda.get_device_capability(x_TD.device) >= (8, 9) and matrix.num_columns % 16 == 0:
        one = torch.ones((), device=x_TD.device)
        sums_TN = torch._scaled_mm(codes_TD, codes_ND.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
    else:
        dtype = precision.of_product(matrix.dtype)
        parts = [linear(codes_TD.to(dtype), codes_ND[rows].to(dtype)) for rows in _slices(matrix)]
        sums_TN = torch.cat(parts, dim=1)
    return sums_TN.to(precision.wide) * scale_T1.to(precision.wide) * matrix.scales_N.to(precision.wide)


def token_codes(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Levels from -127 to 127 as float32 [T, D], and the scale [T, 1] of each row: NaN where a row is not finite."""
    scaled_TD, scale_T1 = _over_largest(x_TD, 127.0)
    return torch.round(scaled_TD), scale_T1


def _over_largest(x_TD: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Rows over their scales, from -most to most, 0 where a row is not finite; the scales [T, 1], NaN there."""
    largest_T1 = x_TD.abs().amax(dim=1, keepdim=True)
    divisor = torch.full((), most, device=x_TD.device)  # a tensor: torch multiplies by the inverse of a number
    scale_T1 = torch.where(largest_T1 < SMALLEST_MAGNITUDE, 0.0, largest_T1 / divisor)
    inverse_T1 = torch.where(scale_T1 == 0, 0.0, torch.reciprocal(scale_T1))
    is_finite_T1 = torch.isfinite(largest_T1)
    scaled_TD = torch.nan_to_num(x_TD * inverse_T1).clamp(-most, most)
    return torch.where(is_finite_T1, scaled_TD, 0.0), torch.where(is_finite_T1, scale_T1, torch.nan)
