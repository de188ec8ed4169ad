"""Quantised matrices as stored encodings, against a decoder that reads the bytes one number at a time.

Shape letters: N outputs, K inputs, G groups.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.stored_matrix import stored_matrix
from vivace.formats.tensor import StoredTensor, row_bytes


def random_matrix(
    bits: int, group_size: int, N: int, K: int, *, symmetric: bool = False, seed: int = 1
) -> QuantizedMatrix:
    rng = np.random.default_rng(seed)
    num_groups = -(-K // group_size)
    half = 1 << (bits - 1)
    zeros = np.full((N, num_groups), half, np.uint8)
    if not symmetric:
        zeros = rng.integers(0, (1 << bits) + (bits <= 4), (N, num_groups)).astype(
            np.uint8
        )  # GPTQ v1 has 2**bits too
    scales = rng.uniform(1e-3, 0.1, (N, num_groups)).astype(np.float32)
    return QuantizedMatrix(bits, group_size, rng.integers(0, 1 << bits, (N, K)).astype(np.uint8), scales, zeros)


def act_order(matrix: QuantizedMatrix, seed: int = 2) -> QuantizedMatrix:
    groups = np.random.default_rng(seed).permutation(matrix.groups_K).astype(np.int32)
    return QuantizedMatrix(matrix.bits, matrix.group_size, matrix.codes_NK, matrix.scales_NG, matrix.zeros_NG, groups)


def expected_values(matrix: QuantizedMatrix, half_scales: bool) -> NDArray[np.float32]:
    """By the definition, one weight at a time."""
    out = np.empty(matrix.codes_NK.shape, np.float32)
    for n in range(out.shape[0]):
        for k in range(out.shape[1]):
            g = k // matrix.group_size if matrix.group_of_K is None else matrix.group_of_K[k]
            scale = np.float32(np.float16(matrix.scales_NG[n, g])) if half_scales else matrix.scales_NG[n, g]
            out[n, k] = scale * np.float32(int(matrix.codes_NK[n, k]) - int(matrix.zeros_NG[n, g]))
    return out


def read_int4(row: bytes, group: int) -> list[float]:
    values = []
    for at in range(0, len(row), 4 + group // 2):
        scale, zero, padding = struct.unpack_from("<eBB", row, at)
        assert padding == 0
        for first in range(at + 4, at + 4 + group // 2, 16):
            nibbles = row[first : first + 16]
            values += [scale * ((byte & 15) - zero) for byte in nibbles]
            values += [scale * ((byte >> 4) - zero) for byte in nibbles]
    return values


def read_int8_row(row: bytes) -> list[float]:
    (scale,) = struct.unpack_from("<f", row)
    return [scale * code for code in struct.unpack_from(f"<{len(row) - 4}b", row, 4)]


def read_q8_0(row: bytes) -> list[float]:
    values = []
    for at in range(0, len(row), 34):
        (scale,) = struct.unpack_from("<e", row, at)
        values += [scale * code for code in struct.unpack_from("<32b", row, at + 2)]
    return values


def read_bytes(tensor: StoredTensor) -> NDArray[np.float32]:
    rows = []
    for row in tensor.data:
        if tensor.encoding.startswith("int4"):
            stored = read_int4(row.tobytes(), int(tensor.encoding.removeprefix("int4_g")))
        else:
            stored = read_q8_0(row.tobytes()) if tensor.encoding == "q8_0" else read_int8_row(row.tobytes())
        order = range(len(stored)) if tensor.input_order is None else tensor.input_order
        values = [0.0] * len(stored)
        for value, k in zip(stored, order, strict=True):
            values[k] = value
        rows.append(values)
    return np.array(rows, np.float32)


def check(tensor: StoredTensor, matrix: QuantizedMatrix, half_scales: bool = True) -> None:
    assert tensor.shape == matrix.shape
    assert tensor.data.shape == (matrix.shape[0], row_bytes(tensor.encoding, matrix.shape[1]))
    expected = expected_values(matrix, half_scales)
    np.testing.assert_array_equal(read_bytes(tensor), expected)
    np.testing.assert_array_equal(dequantize(tensor), expected)


@pytest.mark.parametrize(
    ("group_size", "K", "encoding"),
    [
        (32, 96, "int4_g32"),
        (64, 192, "int4_g64"),
        (128, 384, "int4_g128"),
        (256, 512, "int4_g128"),
        (384, 384, "int4_g128"),
        (96, 96, "int4_g32"),
        (128, 160, "int4_g32"),  # the last group is shorter
        (128, 320, "int4_g64"),
    ],
)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_four_bits_in_groups(group_size: int, K: int, encoding: str, bits: int) -> None:
    matrix = random_matrix(bits, group_size, 5, K)
    tensor = stored_matrix("w", matrix)
    assert (tensor.encoding, tensor.input_order) == (encoding, None)
    check(tensor, matrix)


@pytest.mark.parametrize(("group_size", "K"), [(32, 96), (128, 256), (64, 64)])
@pytest.mark.parametrize("bits", [5, 8])
def test_eight_bits_in_groups(group_size: int, K: int, bits: int) -> None:
    matrix = random_matrix(bits, group_size, 4, K, symmetric=True)
    tensor = stored_matrix("w", matrix)
    assert tensor.encoding == "q8_0"
    check(tensor, matrix)


@pytest.mark.parametrize(
    ("bits", "group_size", "encoding"), [(4, 128, "int4_g128"), (4, 32, "int4_g32"), (8, 64, "q8_0")]
)
def test_activation_order_sorts_columns_by_group(bits: int, group_size: int, encoding: str) -> None:
    matrix = act_order(random_matrix(bits, group_size, 4, 384, symmetric=bits == 8))
    tensor = stored_matrix("w", matrix)
    assert tensor.encoding == encoding
    assert tensor.input_order is not None
    assert sorted(tensor.input_order) == list(range(384))
    check(tensor, matrix)
    some = dequantize(tensor.select_rows([2, 0]))
    np.testing.assert_array_equal(some, expected_values(matrix, True)[[2, 0]])


def test_group_numbers_in_order_need_no_permutation() -> None:
    matrix = random_matrix(4, 64, 3, 192)
    listed = QuantizedMatrix(4, 64, matrix.codes_NK, matrix.scales_NG, matrix.zeros_NG, matrix.groups_K)
    assert stored_matrix("w", listed).input_order is None


@pytest.mark.parametrize(("activations", "encoding"), [("token", "int8_channel"), ("outlier", "int8_outlier")])
@pytest.mark.parametrize("K", [1, 7, 64, 100])
def test_one_scale_a_row(activations: str, encoding: str, K: int) -> None:
    matrix = random_matrix(8, K, 6, K, symmetric=True)
    tensor = stored_matrix("w", matrix, activations)
    assert tensor.encoding == encoding
    check(tensor, matrix, half_scales=False)


def test_one_scale_a_row_in_whatever_order() -> None:
    matrix = random_matrix(7, 48, 3, 48)
    tensor = stored_matrix("w", matrix, "token")
    assert tensor.input_order is None
    check(tensor, matrix, half_scales=False)


@pytest.mark.parametrize(
    ("matrix", "activations", "message"),
    [
        (random_matrix(4, 16, 2, 64), "group", "groups of 16"),
        (random_matrix(4, 32, 2, 72), "group", "72 inputs"),
        (random_matrix(8, 64, 2, 64), "group", "quantise symmetrically"),
        (random_matrix(8, 32, 2, 64, symmetric=True), "token", "one a row"),
    ],
)
def test_what_cannot_be_represented_is_named(matrix: QuantizedMatrix, activations: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        stored_matrix("layers.7.q", matrix, activations)
    assert "layers.7.q" in str(caught.value)


def test_broken_matrices_are_refused() -> None:
    good = random_matrix(4, 32, 2, 64)
    groups = np.array([0] * 32 + [9] * 32, np.int32)
    with pytest.raises(UnsupportedError, match="group numbers from 0 to 9"):
        stored_matrix("w", QuantizedMatrix(4, 32, good.codes_NK, good.scales_NG, good.zeros_NG, groups))
    with pytest.raises(UnsupportedError, match="does not fit 3 bits"):
        stored_matrix("w", QuantizedMatrix(3, 32, good.codes_NK | 8, good.scales_NG, good.zeros_NG))
    with pytest.raises(UnsupportedError, match="not finite in half"):
        stored_matrix("w", QuantizedMatrix(4, 32, good.codes_NK, good.scales_NG * np.float32(1e9), good.zeros_NG))
