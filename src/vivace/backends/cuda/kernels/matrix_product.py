"""The backend's matrices as the product kernels take them."""

from __future__ import annotations

from torch import Tensor

from vivace.backends.cuda.kernels.case import ProductCase
from vivace.backends.cuda.kernels.group_product import group_product
from vivace.backends.cuda.kernels.int8_product import int8_product, token_codes
from vivace.backends.cuda.kernels.limits import MAX_PRODUCT_ROWS
from vivace.backends.cuda.matrix import BlockMatrix, GroupMatrix, Int8RowMatrix, Matrix
from vivace.core.errors import EngineError


def product_case(x_TD: Tensor, matrix: Matrix) -> ProductCase:
    """What the registry is asked about x @ matrix.T."""
    values = str(x_TD.dtype).removeprefix("torch.")
    num_rows = min(x_TD.shape[0], MAX_PRODUCT_ROWS + 1)  # the registry keeps each case: all larger ones are alike
    return ProductCase(_encoding(matrix), values, num_rows, x_TD.shape[1])


def matrix_product(x_TD: Tensor, matrix: Matrix) -> Tensor:
    """[T, N] float32, for a case that the registry takes."""
    if matrix.order is not None:
        x_TD = x_TD[:, matrix.order]
    if isinstance(matrix, GroupMatrix):
        return group_product(x_TD, matrix.codes, matrix.scales_NG, matrix.zeros_NG, matrix.zero, matrix.num_rows)
    if isinstance(matrix, Int8RowMatrix):
        return int8_product(*token_codes(x_TD), matrix.codes_ND, matrix.scales_N)
    raise EngineError(f"no kernel multiplies with a {type(matrix).__name__}")


def _encoding(matrix: Matrix) -> str:
    if isinstance(matrix, BlockMatrix):
        return matrix.encoding
    if isinstance(matrix, Int8RowMatrix):
        return "int8_outlier" if matrix.keeps_outliers else "int8_channel"
    if isinstance(matrix, GroupMatrix):
        group = matrix.num_columns // matrix.scales_NG.shape[1]
        return f"int4_g{group}" if matrix.codes.itemsize * matrix.codes.shape[1] < matrix.num_columns else "q8_0"
    return f"a matrix of {matrix.dtype}".replace("torch.", "")
