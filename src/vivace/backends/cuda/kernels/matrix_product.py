"""The backend's matrices as the product kernels take them."""

from __future__ import annotations

import torch
from torch import Tensor

from vivace.backends.cuda.code_tiles import CodedMatrix
from vivace.backends.cuda.kernels.case import ProductCase
from vivace.backends.cuda.kernels.coded_product import coded_product
from vivace.backends.cuda.kernels.fp8_product import fp8_product, multiplies_fp8
from vivace.backends.cuda.kernels.int8_product import int8_product
from vivace.backends.cuda.kernels.token_codes import token_codes
from vivace.backends.cuda.matrix import Fp8RowMatrix, Int8RowMatrix, Matrix
from vivace.backends.cuda.token_codes import ProductRows
from vivace.core.errors import EngineError


def product_case(rows: ProductRows, matrix: Matrix) -> ProductCase:
    """What the registry is asked about rows @ matrix.T."""
    return ProductCase(_encoding(matrix), str(rows.dtype).removeprefix("torch."), matrix.num_columns)


def matrix_product(rows: ProductRows, matrix: Matrix) -> Tensor:
    """[T, N] float32, for a case that the registry takes."""
    out_TN = torch.empty((len(rows), matrix.num_rows), dtype=torch.float32, device=rows.device)
    write_product(rows, matrix, out_TN, None)
    return out_TN


def write_product(
    rows: ProductRows, matrix: Matrix, out_TN: Tensor, bias_N: Tensor | None, num_beside: int | None = None
) -> None:
    """Writes rows @ matrix.T + bias to `out_TN`, for a case that the registry takes. Unit stride along its rows.
    Codes are for the matrix's encoding, without order. `num_beside`: outputs of all matrices of which this is one:
    sums are cut as those of a single one with so many would be."""
    if isinstance(rows, Tensor) and matrix.order is not None:
        rows = rows[:, matrix.order]
    num_outputs = matrix.num_rows if num_beside is None else num_beside
    if isinstance(matrix, CodedMatrix) and isinstance(rows, Tensor):
        coded_product(rows, matrix, out_TN, bias_N, num_outputs)
        return
    if not isinstance(matrix, Int8RowMatrix | Fp8RowMatrix):
        raise EngineError(f"no kernel multiplies {type(rows).__name__} with a {type(matrix).__name__}")
    coded = token_codes(rows, matrix.encoding) if isinstance(rows, Tensor) else rows
    if isinstance(matrix, Int8RowMatrix):
        int8_product(coded, matrix.codes_ND, matrix.scales_N, out_TN, bias_N, num_outputs)
    else:
        is_native = multiplies_fp8(rows.device)
        fp8_product(coded, matrix.codes_ND, matrix.scales_N, out_TN, bias_N, num_outputs, is_native=is_native)


def _encoding(matrix: Matrix) -> str:
    if isinstance(matrix, CodedMatrix | Int8RowMatrix | Fp8RowMatrix):
        return matrix.encoding
    return f"a matrix of {matrix.dtype}".replace("torch.", "")
