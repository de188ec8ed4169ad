"""Weights as the device holds them: never more bits than their encoding, and decoded a slice at a time.

Shape letters: N outputs, D inputs, G groups of inputs that share a scale, R rows wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.backends.cuda.code_tiles import pack_codes
from vivace.backends.cuda.transfer import weights_to
from vivace.core.errors import EngineError, UnsupportedError
from vivace.formats.tensor import ENCODINGS, StoredTensor, row_bytes

Rows = slice | Tensor

FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
INT8_ROWS = ("int8_channel", "int8_outlier")


class Matrix(Protocol):
    """`dtype` is that of a product with it; `order`: stored column j multiplies input order[j]."""

    dtype: torch.dtype
    num_rows: int
    num_columns: int
    order: Tensor | None

    @property
    def num_bytes(self) -> int: ...

    def decode(self, rows: Rows) -> Tensor:
        """[R, D] in the order of stored columns, float32 or the type of what is stored."""
        ...


@dataclass(slots=True)
class FloatMatrix:
    values_ND: Tensor
    dtype: torch.dtype
    num_rows: int
    num_columns: int
    order: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        return self.values_ND.nbytes

    def decode(self, rows: Rows) -> Tensor:
        return self.values_ND[rows]


@dataclass(slots=True)
class Int8RowMatrix:
    """int8 codes [N, D] and a float32 scale a row, for products whose activations are int8 too."""

    codes_ND: Tensor
    scales_N: Tensor
    keeps_outliers: bool
    num_rows: int
    num_columns: int
    order: Tensor | None
    dtype: torch.dtype = torch.float32  # sums of int8 products are exact in it up to 1040 inputs, near beyond

    @property
    def encoding(self) -> str:
        return "int8_outlier" if self.keeps_outliers else "int8_channel"

    @property
    def num_bytes(self) -> int:
        return self.codes_ND.nbytes + self.scales_N.nbytes

    def decode(self, rows: Rows) -> Tensor:
        return self.codes_ND[rows].float() * self.scales_N[rows][:, None]


@dataclass(slots=True)
class Fp8RowMatrix:
    """Bits of e4m3 numbers, uint8 [N, D], and a float32 scale a row, for products whose activations are e4m3 too."""

    codes_ND: Tensor
    scales_N: Tensor
    num_rows: int
    num_columns: int
    order: Tensor | None
    dtype: torch.dtype = torch.bfloat16  # holds them exactly
    encoding: str = "fp8_channel"

    @property
    def num_bytes(self) -> int:
        return self.codes_ND.nbytes + self.scales_N.nbytes

    def decode(self, rows: Rows) -> Tensor:
        return self.codes_ND[rows].view(torch.float8_e4m3fn).float() * self.scales_N[rows][:, None]


def load_matrix(tensor: StoredTensor, device: torch.device) -> Matrix:
    """A matrix of any encoding on the device. Raises `UnsupportedError`, `EngineError` for bytes that do not fit."""
    if tensor.encoding not in ENCODINGS:
        raise UnsupportedError(f"{tensor.name}: the encoding {tensor.encoding} is not known")
    if len(tensor.shape) != 2:
        raise EngineError(f"{tensor.name}: pack needs a matrix, not shape {tensor.shape}")
    num_rows, num_columns = tensor.shape
    if tensor.data.shape != (num_rows, row_bytes(tensor.encoding, num_columns)):
        raise EngineError(f"{tensor.name}: {tensor.data.shape} bytes do not hold {tensor.shape} of {tensor.encoding}")
    order = None if tensor.input_order is None else _order(tensor, device)
    return _maker(tensor.encoding)(tensor, device, order)


Maker = Callable[[StoredTensor, torch.device, Tensor | None], Matrix]


def _maker(encoding: str) -> Maker:
    if encoding in FLOATS:
        return _float_matrix
    if encoding in INT8_ROWS:
        return _int8_row_matrix
    if encoding == "fp8_channel":
        return _fp8_row_matrix
    return _coded_matrix


def _float_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    dtype = FLOATS[tensor.encoding]
    values_ND = _send(tensor.data, device).view(dtype)
    return FloatMatrix(values_ND, dtype, tensor.num_rows, tensor.num_columns, order)


def _int8_row_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    scales_N = _send(tensor.data[:, :4], device).view(torch.float32)[:, 0].contiguous()
    codes_ND = _send(tensor.data[:, 4:], device).view(torch.int8)
    keeps_outliers = tensor.encoding == "int8_outlier"
    return Int8RowMatrix(codes_ND, scales_N, keeps_outliers, tensor.num_rows, tensor.num_columns, order)


def _fp8_row_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    scales_N = _send(tensor.data[:, :4], device).view(torch.float32)[:, 0].contiguous()
    codes_ND = _send(tensor.data[:, 4:], device)
    return Fp8RowMatrix(codes_ND, scales_N, tensor.num_rows, tensor.num_columns, order)


def _coded_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    return pack_codes(_send(tensor.data, device), tensor.encoding, tensor.num_columns, order)


def _send(data: NDArray[np.uint8], device: torch.device) -> Tensor:
    """A copy on the device: the file's pages are not referenced afterwards."""
    return weights_to(device).send(data)


def _order(tensor: StoredTensor, device: torch.device) -> Tensor:
    order = np.array(tensor.input_order, np.int64)
    if not np.array_equal(np.sort(order), np.arange(tensor.shape[1])):
        raise EngineError(f"{tensor.name}: input_order is not an order of its {tensor.shape[1]} inputs")
    return torch.from_numpy(order).to(device)
