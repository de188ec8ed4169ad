"""From a `QuantizedMatrix` to a stored encoding that represents it exactly, up to the f16 rounding of group scales.

Shape letters: N outputs, K inputs, G groups of the matrix, B blocks of the encoding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.level_quants import encode_int4_blocks, encode_int8_rows, encode_q8_0_blocks
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.tensor import StoredTensor

# How a product reads its activations: int8 by groups of 32 inputs; int8 with one scale a token (W8A8); that, except
# for outliers, which stay floats (LLM.int8).
Activations = Literal["group", "token", "outlier"]

INT4_BLOCKS = {128: "int4_g128", 64: "int4_g64", 32: "int4_g32"}
Q8_0_BLOCK = 32


def stored_matrix(name: str, matrix: QuantizedMatrix, activations: Activations = "group") -> StoredTensor:
    """`matrix` in the encoding whose product is meant by `activations`.

    "group": codes of up to 4 bits become int4_g128, g64 or g32, the largest whose blocks stay inside the groups;
    wider ones q8_0. "token" and "outlier": int8_channel and int8_outlier, which need one scale a row. Where groups
    are not runs of inputs, columns are stored sorted by group and `input_order` says so.

    Raises UnsupportedError that names what no encoding represents.
    """
    _check_codes(name, matrix)
    if activations != "group":
        encoding = "int8_channel" if activations == "token" else "int8_outlier"
        data = encode_int8_rows(_int8_levels(name, matrix), _row_scales(name, matrix, encoding))
        return StoredTensor(name, encoding, matrix.shape, data)
    order_K = np.argsort(matrix.groups_K, kind="stable").astype(np.int32)
    sorted_groups_K = matrix.groups_K[order_K]
    in_order = bool((order_K == np.arange(len(order_K))).all())
    input_order = None if in_order else order_K
    columns = slice(None) if in_order else order_K
    block = _block_size(name, matrix, sorted_groups_K)
    groups_B = sorted_groups_K[::block]
    _check_half(name, matrix.scales_NG)
    scales_NB = matrix.scales_NG[:, groups_B]
    if matrix.bits <= 4:
        encoding = INT4_BLOCKS[block]
        data = encode_int4_blocks(matrix.codes_NK[:, columns], scales_NB, matrix.zeros_NG[:, groups_B])
    else:
        encoding = "q8_0"
        data = encode_q8_0_blocks(np.ascontiguousarray(_int8_levels(name, matrix)[:, columns]), scales_NB)
    return StoredTensor(name, encoding, matrix.shape, data, input_order)


def _check_codes(name: str, matrix: QuantizedMatrix) -> None:
    if not 1 <= matrix.bits <= 8:
        raise UnsupportedError(f"{name}: codes of {matrix.bits} bits; 1 to 8 can be represented")
    if matrix.codes_NK.max(initial=0) >> matrix.bits:
        raise UnsupportedError(f"{name}: code {matrix.codes_NK.max()} does not fit {matrix.bits} bits")
    groups_K, num_groups = matrix.groups_K, matrix.scales_NG.shape[1]
    if groups_K.size and not 0 <= groups_K.min() <= groups_K.max() < num_groups:
        raise UnsupportedError(
            f"{name}: group numbers from {groups_K.min()} to {groups_K.max()}, but {num_groups} groups have scales"
        )


def _block_size(name: str, matrix: QuantizedMatrix, sorted_groups_K: NDArray[np.int32]) -> int:
    """The largest block that never holds inputs of two groups."""
    num_inputs = len(sorted_groups_K)
    for block in INT4_BLOCKS if matrix.bits <= 4 else (Q8_0_BLOCK,):
        if num_inputs % block == 0:
            blocks = sorted_groups_K.reshape(-1, block)
            if (blocks == blocks[:, :1]).all():
                return block
    raise UnsupportedError(
        f"{name}: {num_inputs} inputs in groups of {matrix.group_size}; only widths and groups of whole 32 inputs "
        "can be represented"
    )


def _check_half(name: str, scales_NG: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        halves = scales_NG.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UnsupportedError(f"{name}: scales that are not finite in half precision (65504 at most)")


def _int8_levels(name: str, matrix: QuantizedMatrix) -> NDArray[np.int8]:
    """Codes less zero points [N, K]. Symmetric codes always fit; 8-bit ones with other zero points may not."""
    if matrix.is_symmetric:
        return (matrix.codes_NK - np.uint8(1 << (matrix.bits - 1))).view(np.int8)
    levels = matrix.codes_NK.astype(np.int16) - matrix.zeros_NG.astype(np.int16)[:, matrix.groups_K]
    if levels.min(initial=0) < -128 or levels.max(initial=0) > 127:
        raise UnsupportedError(
            f"{name}: codes less zero points from {levels.min()} to {levels.max()}; int8 holds -128 to 127: quantise "
            "symmetrically"
        )
    return levels.astype(np.int8)


def _row_scales(name: str, matrix: QuantizedMatrix, encoding: str) -> NDArray[np.float32]:
    scales_NG = matrix.scales_NG
    if not (scales_NG == scales_NG[:, :1]).all():
        raise UnsupportedError(
            f"{name}: groups of {matrix.group_size} have scales of their own; {encoding} has one a row: quantise per "
            "channel, or let activations be quantised by group"
        )
    return scales_NG[:, 0]
