"""Products with weights, and rows of them as embeddings, by torch: coded matrices are decoded a slice at a time.

Shape letters: T rows of activations, N outputs, D inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from vivace.backends.cuda.matrix import FloatMatrix, Fp8RowMatrix, Int8RowMatrix, Matrix
from vivace.backends.cuda.precision import Precision
from vivace.backends.cuda.token_codes import ProductRows, TokenCodes, token_codes
from vivace.core.errors import EngineError
from vivace.ops.reference_activations import OUTLIER_MAGNITUDE

DECODED_ELEMENTS = 1 << 25  # of a slice: 64 MiB in bfloat16, some hundred more in temporaries


def product(rows: ProductRows, matrix: Matrix, precision: Precision) -> Tensor:
    """[T, N], in the precision's own type or `precision.values`. Codes are for the matrix's encoding and order."""
    if isinstance(rows, Tensor) and matrix.order is not None:
        rows = rows[:, matrix.order]
    if isinstance(matrix, Int8RowMatrix | Fp8RowMatrix):
        coded = token_codes(rows, matrix.encoding) if isinstance(rows, Tensor) else rows
        return _token_product(coded, matrix, precision)
    if isinstance(rows, TokenCodes):
        raise EngineError(f"codes of tokens are nothing to a {type(matrix).__name__}")
    dtype = precision.of_product(matrix.dtype)
    x_TD = rows.to(dtype)
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


def _token_product(coded: TokenCodes, matrix: Int8RowMatrix | Fp8RowMatrix, precision: Precision) -> Tensor:
    """As `vivace.ops.reference_activations` defines it: 8 bits of a token times those of a row, and two scales."""
    if isinstance(matrix, Fp8RowMatrix):
        return _scaled(_fp8_sums(coded, matrix, precision), coded, matrix, precision)
    dtype = precision.of_product(matrix.dtype)
    out_TN = _scaled(_level_sums(coded.codes_TD.to(dtype), matrix), coded, matrix, precision)
    if coded.values_TD is None:
        return out_TN
    values_TD = coded.values_TD.float()
    outliers_TD = torch.where(values_TD.abs() >= OUTLIER_MAGNITUDE, values_TD, 0).to(dtype)
    return out_TN + _level_sums(outliers_TD, matrix).to(precision.wide) * matrix.scales_N.to(precision.wide)


def _scaled(sums_TN: Tensor, coded: TokenCodes, matrix: Int8RowMatrix | Fp8RowMatrix, precision: Precision) -> Tensor:
    scales_T1, wide = coded.scales_T[:, None], precision.wide
    return sums_TN.to(wide) * scales_T1.to(wide) * matrix.scales_N.to(wide)


def _level_sums(x_TD: Tensor, matrix: Int8RowMatrix) -> Tensor:
    """Of rows times int8 levels, in the rows' type."""
    return torch.cat([linear(x_TD, matrix.codes_ND[rows].to(x_TD.dtype)) for rows in _slices(matrix)], dim=1)


def _fp8_sums(coded: TokenCodes, matrix: Fp8RowMatrix, precision: Precision) -> Tensor:
    """e4m3 numbers of a token times those of a row, by tensor cores where they have them."""
    codes_TD, codes_ND = (codes.view(torch.float8_e4m3fn) for codes in (coded.codes_TD, matrix.codes_ND))
    if codes_TD.is_cuda and torch.cuda.get_device_capability(codes_TD.device) >= (8, 9) and _is_in_sixteens(matrix):
        one = torch.ones((), device=codes_TD.device)
        return torch._scaled_mm(codes_TD, codes_ND.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
    dtype = precision.of_product(matrix.dtype)
    parts = [linear(codes_TD.to(dtype), codes_ND[rows].to(dtype)) for rows in _slices(matrix)]
    return torch.cat(parts, dim=1)


def _is_in_sixteens(matrix: Fp8RowMatrix) -> bool:
    """What `_scaled_mm` asks for."""
    return matrix.num_columns % 16 == 0 and matrix.num_rows % 16 == 0
