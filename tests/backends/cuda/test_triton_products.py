"""Products with coded weights against float64 products of what the codes stand for."""

from __future__ import annotations

import numpy as np
import pytest
from paged_case import TYPES
from triton_interpreter import DEVICE, torch

from vivace.backends.cuda.kernels.group_product import group_product
from vivace.backends.cuda.kernels.int8_product import int8_product, token_codes
from vivace.backends.cuda.matrix import GroupMatrix, Int8RowMatrix, load_matrix
from vivace.formats.dequantize import dequantize
from vivace.formats.level_quants import encode_int8_rows
from vivace.formats.tensor import ENCODINGS, StoredTensor
from vivace.ops.reference_activations import round_tokens


def random_bytes(rng: np.random.Generator, encoding: str, num_rows: int, num_columns: int) -> StoredTensor:
    """Any zero point, any code, scales of both signs."""
    elements, size = ENCODINGS[encoding]
    blocks = rng.integers(0, 256, (num_rows, num_columns // elements, size), dtype=np.uint8)
    scales = rng.standard_normal(blocks.shape[:2]).astype(np.float16) * np.float16(0.1)
    blocks[:, :, :2] = scales[..., None].view(np.uint8)
    if encoding.startswith("int4_g"):
        blocks[:, :, 2] &= 15
        blocks[:, :, 3] = 0
    return StoredTensor("matrix", encoding, (num_rows, num_columns), blocks.reshape(num_rows, -1))


CASES = [
    ("int4_g32", 3, 96, "f32"),
    ("int4_g64", 17, 192, "bf16"),
    ("int4_g128", 1, 256, "bf16"),
    ("q4_0", 2, 160, "f16"),
    ("q8_0", 5, 96, "f32"),
]


@pytest.mark.parametrize(("encoding", "num_rows", "num_inputs", "dtype"), CASES)
def test_groups(encoding: str, num_rows: int, num_inputs: int, dtype: str) -> None:
    rng = np.random.default_rng(23)
    stored = random_bytes(rng, encoding, 70, num_inputs)
    matrix = load_matrix(stored, DEVICE)
    assert isinstance(matrix, GroupMatrix)
    x = torch.from_numpy(rng.standard_normal((num_rows, num_inputs), dtype=np.float32)).to(TYPES[dtype])
    result = group_product(x.to(DEVICE), matrix.codes, matrix.scales_NG, matrix.zeros_NG, matrix.zero, 70)
    rounded = torch.from_numpy(dequantize(stored)).to(TYPES[dtype]).double().numpy()  # as the kernel multiplies them
    np.testing.assert_allclose(result.cpu().numpy(), x.double().numpy() @ rounded.T, rtol=1e-5, atol=1e-4)


def test_tokens_are_coded_as_defined() -> None:
    rng = np.random.default_rng(29)
    x_TD = rng.standard_normal((6, 200), dtype=np.float32) * np.array(
        [[1], [1e3], [1e-33], [0], [1], [1]], np.float32
    )
    x_TD[4, 7], x_TD[5, 9] = np.nan, np.inf
    codes_TD, scales_T = token_codes(torch.from_numpy(x_TD).to(DEVICE))
    rounded_TD = codes_TD.float().cpu().numpy() * scales_T.cpu().numpy()[:, None]
    np.testing.assert_array_equal(rounded_TD, round_tokens(x_TD))


def test_int8_of_tokens_and_rows() -> None:
    rng = np.random.default_rng(31)
    codes_ND = rng.integers(-127, 128, (70, 200)).astype(np.int8)
    data = encode_int8_rows(codes_ND, rng.uniform(0.001, 0.02, 70).astype(np.float32))
    weight = StoredTensor("matrix", "int8_channel", (70, 200), data)
    matrix = load_matrix(weight, DEVICE)
    assert isinstance(matrix, Int8RowMatrix)
    x_TD = rng.standard_normal((19, 200), dtype=np.float32)
    result = int8_product(*token_codes(torch.from_numpy(x_TD).to(DEVICE)), matrix.codes_ND, matrix.scales_N)
    expected = round_tokens(x_TD).astype(np.float64) @ dequantize(weight).astype(np.float64).T
    np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=1e-5, atol=1e-4)
