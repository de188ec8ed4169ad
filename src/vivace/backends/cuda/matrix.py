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

from vivace.backends.cuda.transfer import weights_to
from vivace.backends.cuda.unpack import BLOCKS, nibbles
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
class GroupMatrix:
    """value = scale * (code - zero). `codes`: int8 [N, D], or uint8 [N, D / 2] of nibbles (byte j of 16 holds codes j
    and j + 16 of 32); `scales_NG` float16; `zeros_NG` uint8, or `zero` for all."""

    codes: Tensor
    scales_NG: Tensor
    zeros_NG: Tensor | None
    zero: int
    num_rows: int
    num_columns: int
    order: Tensor | None
    dtype: torch.dtype = torch.bfloat16

    @property
    def num_bytes(self) -> int:
        zeros = 0 if self.zeros_NG is None else self.zeros_NG.nbytes
        return self.codes.nbytes + self.scales_NG.nbytes + zeros

    def decode(self, rows: Rows) -> Tensor:
        codes, scales_RG = self.codes[rows], self.scales_NG[rows].float()
        if codes.dtype == torch.uint8:
            codes = nibbles(codes.reshape(len(codes), -1, 16))
        zeros_RG1 = self.zero if self.zeros_NG is None else self.zeros_NG[rows].float()[:, :, None]
        levels = codes.reshape(*scales_RG.shape, -1).float() - zeros_RG1
        return (scales_RG[:, :, None] * levels).reshape(len(codes), self.num_columns)


@dataclass(slots=True)
class BlockMatrix:
    """The bytes of the file [N, bytes of a row], for encodings whose scales are packed among them."""

    data: Tensor
    encoding: str
    num_rows: int
    num_columns: int
    order: Tensor | None
    dtype: torch.dtype = torch.bfloat16

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes

    def decode(self, rows: Rows) -> Tensor:
        data = self.data[rows]
        elements, unpack = BLOCKS[self.encoding]
        num_blocks = self.num_columns // elements
        return unpack(data.reshape(len(data) * num_blocks, -1)).reshape(len(data), self.num_columns)


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
    def num_bytes(self) -> int:
        return self.codes_ND.nbytes + self.scales_N.nbytes

    def decode(self, rows: Rows) -> Tensor:
        return self.codes_ND[rows].float() * self.scales_N[rows][:, None]


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
    return _block_matrix if encoding in BLOCKS else _group_matrix


def _float_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    dtype = FLOATS[tensor.encoding]
    values_ND = _send(tensor.data, device).view(dtype)
    return FloatMatrix(values_ND, dtype, tensor.num_rows, tensor.num_columns, order)


def _int8_row_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    scales_N = _send(tensor.data[:, :4], device).view(torch.float32)[:, 0].contiguous()
    codes_ND = _send(tensor.data[:, 4:], device).view(torch.int8)
    keeps_outliers = tensor.encoding == "int8_outlier"
    return Int8RowMatrix(codes_ND, scales_N, keeps_outliers, tensor.num_rows, tensor.num_columns, order)


def _block_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    data = _send(tensor.data, device)
    return BlockMatrix(data, tensor.encoding, tensor.num_rows, tensor.num_columns, order)


def _group_matrix(tensor: StoredTensor, device: torch.device, order: Tensor | None) -> Matrix:
    num_rows = tensor.num_rows
    blocks = tensor.data.reshape(num_rows, -1, ENCODINGS[tensor.encoding][1])
    scales_NG = _send(blocks[:, :, :2], device).view(torch.float16)[:, :, 0].contiguous()
    has_zeros = tensor.encoding.startswith("int4_g")
    zeros_NG = _send(blocks[:, :, 2], device) if has_zeros else None
    codes = _send(blocks[:, :, 4 if has_zeros else 2 :], device).reshape(num_rows, -1)
    if tensor.encoding == "q8_0":
        return GroupMatrix(codes.view(torch.int8), scales_NG, None, 0, num_rows, tensor.num_columns, order)
    return GroupMatrix(codes, scales_NG, zeros_NG, 8, num_rows, tensor.num_columns, order)


def _send(data: NDArray[np.uint8], device: torch.device) -> Tensor:
    """A copy on the device: the file's pages are not referenced afterwards."""
    return weights_to(device).send(data)


def _order(tensor: StoredTensor, device: torch.device) -> Tensor:
    order = np.array(tensor.input_order, np.int64)
    if not np.array_equal(np.sort(order), np.arange(tensor.shape[1])):
        raise EngineError(f"{tensor.name}: input_order is not an order of its {tensor.shape[1]} inputs")
    return torch.from_numpy(order).to(device)
