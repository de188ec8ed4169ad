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
from vivace.core.errors import EngineError


def product_case(x_TD: Tensor, matrix: Matrix) -> ProductCase:
    """What the registry is asked about x @ matrix.T."""
    return ProductCase(_encoding(matrix), str(x_TD.dtype).removeprefix("torch."), x_TD.shape[1])


def matrix_product(x_TD: Tensor, matrix: Matrix) -> Tensor:
    """[T, N] float32, for a case that the registry takes."""
    out_TN = torch.empty((len(x_TD), matrix.num_rows), dtype=torch.float32, device=x_TD.device)
    write_product(x_TD, matrix, out_TN, None)
    return out_TN


def write_product(x_TD: Tensor, matrix: Matrix, out_TN: Tensor, bias_N: Tensor | None) -> None:
    """Writes x @ matrix.T + bias to `out_TN`, for a case that the registry takes. Unit stride along its rows."""
    if matrix.order is not None:
        x_TD = x_TD[:, matrix.order]
    if isinstance(matrix, CodedMatrix):
        coded_product(x_TD, matrix, out_TN, bias_N)
    elif isinstance(matrix, Int8RowMatrix):
        coded = token_codes(x_TD, keeps_outliers=matrix.keeps_outliers)
        int8_product(x_TD, coded, matrix.codes_ND, matrix.scales_N, out_TN, bias_N)
    elif isinstance(matrix, Fp8RowMatrix):
        coded, is_native = token_codes(x_TD, is_float=True), multiplies_fp8(x_TD.device)
        fp8_product(coded, matrix.codes_ND, matrix.scales_N, out_TN, bias_N, is_native=is_native)
    else:
        raise EngineError(f"no kernel multiplies with a {type(matrix).__name__}")


def _encoding(matrix: Matrix) -> str:
    if isinstance(matrix, CodedMatrix):
        return matrix.encoding
    if isinstance(matrix, Int8RowMatrix):
        return "int8_outlier" if matrix.keeps_outliers else "int8_channel"
    if isinstance(matrix, Fp8RowMatrix):
        return "fp8_channel"
    return f"a matrix of {matrix.dtype}".replace("torch.", "")
