"""Products with coded weights against float64 products of what the codes stand for."""

from __future__ import annotations

import numpy as np
import pytest
from paged_case import TYPES
from triton_interpreter import CONVERTS_FP8, DEVICE, HAS_DEVICE, torch

from vivace.backends.cuda.code_layout import LAYOUTS
from vivace.backends.cuda.kernels import matrix_product as matrix_product_module
from vivace.backends.cuda.kernels import split
from vivace.backends.cuda.kernels.coded_product import is_packed
from vivace.backends.cuda.kernels.matrix_product import matrix_product, write_product
from vivace.backends.cuda.kernels.split import split_of
from vivace.backends.cuda.kernels.token_codes import token_codes
from vivace.backends.cuda.matrix import load_matrix
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import quantize_fp8
from vivace.formats.level_quants import encode_int8_rows
from vivace.formats.tensor import ENCODINGS, StoredTensor
from vivace.ops.reference_activations import round_inliers, round_tokens, round_tokens_fp8

HALVES = {
    "q6_k": (208,),
    "q4_1": (0, 2),
    "q5_1": (0, 2),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
}  # where scales lie in a block


def random_bytes(encoding: str, num_rows: int, num_columns: int, seed: int) -> StoredTensor:
    """Any zero point, any code, scales of both signs."""
    rng = np.random.default_rng(seed)
    elements, size = ENCODINGS[encoding]
    blocks = rng.integers(0, 256, (num_rows, num_columns // elements, size), dtype=np.uint8)
    for start in HALVES.get(encoding, (0,)):
        scales = rng.standard_normal(blocks.shape[:2]).astype(np.float16) * np.float16(0.01)
        blocks[:, :, start : start + 2] = scales[..., None].view(np.uint8)
    if encoding.startswith("int4_g"):
        blocks[:, :, 2] &= 15
        blocks[:, :, 3] = 0
    return StoredTensor("matrix", encoding, (num_rows, num_columns), blocks.reshape(num_rows, -1))


def random_rows(num_rows: int, num_inputs: int, dtype: str) -> torch.Tensor:
    values = np.random.default_rng(num_rows).standard_normal((num_rows, num_inputs), dtype=np.float32)
    return torch.from_numpy(values).to(TYPES[dtype])


def expected_product(x: torch.Tensor, stored: StoredTensor, encoding: str) -> np.ndarray:
    """With the weights as the kernel multiplies them: as they are, or rounded to the activations' type."""
    weights = torch.from_numpy(dequantize(stored))
    rounded = weights if is_packed(encoding, len(x), x.dtype) else weights.to(x.dtype)
    return x.double().numpy() @ rounded.double().numpy().T


# Inputs of a step and a part of one; rows of one tile and of two; each type with each way of decoding.
CASES = [
    ("int4_g32", 3, 96, "f32"),
    ("int4_g32", 17, 160, "bf16"),
    ("int4_g64", 17, 192, "f16"),
    ("int4_g128", 1, 256, "bf16"),
    ("int4_g128", 130, 128, "bf16"),
    ("q4_0", 2, 160, "f16"),
    ("q4_0", 5, 96, "bf16"),
    ("q4_1", 3, 160, "bf16"),
    ("q5_0", 3, 288, "bf16"),
    ("q5_1", 3, 288, "f16"),
    ("q8_0", 5, 96, "f32"),
    ("q8_0", 18, 160, "bf16"),
    ("q4_k", 2, 512, "bf16"),
    ("q4_k", 20, 256, "bf16"),
    ("q5_k", 3, 256, "bf16"),
    ("q6_k", 2, 512, "f16"),
    ("q6_k", 20, 256, "bf16"),
]


@pytest.mark.parametrize(("encoding", "num_rows", "num_inputs", "dtype"), CASES)
def test_block_encodings(encoding: str, num_rows: int, num_inputs: int, dtype: str) -> None:
    stored = random_bytes(encoding, 70, num_inputs, 23)
    x = random_rows(num_rows, num_inputs, dtype)
    result = matrix_product(x.to(DEVICE), load_matrix(stored, DEVICE)).cpu().numpy()
    expected = expected_product(x, stored, encoding)
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("encoding", ["int4_g128", "q4_k", "int8_channel"])
def test_parts_of_the_inputs_add_up(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut or not, with a bias, into columns of a wider value."""
    monkeypatch.setattr(split, "SMALLEST_PART", 256)
    stored = int8_rows(64, 1280, 3) if encoding == "int8_channel" else random_bytes(encoding, 64, 1280, 3)
    matrix, x = load_matrix(stored, DEVICE), random_rows(2, 1280, "f32").to(DEVICE)
    bias = torch.arange(64, dtype=torch.float32, device=DEVICE)
    results = []
    for most in (1, 4):
        monkeypatch.setattr(split, "split_of", lambda *shape, most=most: min(most, split_of(*shape)))
        out = torch.full((2, 70), torch.nan, device=DEVICE)
        write_product(x, matrix, out[:, 6:], bias)
        assert out[:, :6].isnan().all()
        results.append(out[:, 6:].cpu().numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5 * np.abs(results[0]).max())
    assert not np.array_equal(results[1], results[0]) or encoding == "int8_channel"


def test_parts_do_not_depend_on_rows() -> None:
    """A row alone and beside others, to the bit."""
    stored = random_bytes("int4_g32", 64, 1280, 5)
    matrix, x = load_matrix(stored, DEVICE), random_rows(20, 1280, "bf16").to(DEVICE)
    together = matrix_product(x, matrix)
    for row in (0, 19):
        assert torch.equal(matrix_product(x[row : row + 1], matrix)[0], together[row])


def test_every_shape_has_programs_enough_or_small_parts() -> None:
    """Of Llama-3.2-1B and Llama-3.1-8B: outputs, inputs."""
    for outputs, inputs in [(2048, 2048), (512, 2048), (8192, 2048), (2048, 8192), (4096, 4096), (1024, 4096)]:
        parts = split_of(outputs, inputs // 128, 128)
        assert outputs // 64 * parts >= split.ENOUGH_PROGRAMS or inputs // parts <= 2 * split.SMALLEST_PART
    assert split_of(128256, 16, 128) == split_of(14336, 32, 128) == 1


def test_columns_in_another_order() -> None:
    stored = random_bytes("int4_g32", 64, 128, 7)
    order = np.random.default_rng(3).permutation(128).astype(np.int32)
    moved = StoredTensor("matrix", stored.encoding, stored.shape, stored.data, order)
    x = random_rows(3, 128, "f32")
    result = matrix_product(x.to(DEVICE), load_matrix(moved, DEVICE)).cpu().numpy()
    np.testing.assert_allclose(result, x.double().numpy() @ dequantize(moved).T.astype(np.float64), rtol=0, atol=1e-4)


def test_words_hold_every_encoding_in_as_many_bytes() -> None:
    """Whole tiles of rows and steps; a sixth bit's scales take two bytes more in 210."""
    for encoding in LAYOUTS:
        stored = random_bytes(encoding, 64, 512, 11)
        assert load_matrix(stored, DEVICE).num_bytes <= stored.data.nbytes * (212 / 210 if encoding == "q6_k" else 1)


def test_tokens_are_coded_as_defined() -> None:
    rng = np.random.default_rng(29)
    x_TD = rng.standard_normal((6, 200), dtype=np.float32) * np.array(
        [[1], [1e3], [1e-33], [0], [1], [1]], np.float32
    )
    x_TD[4, 7], x_TD[5, 9] = np.nan, np.inf
    coded = token_codes(torch.from_numpy(x_TD).to(DEVICE), "int8_channel")
    rounded_TD = coded.codes_TD.float().cpu().numpy() * coded.scales_T.cpu().numpy()[:, None]
    np.testing.assert_array_equal(rounded_TD, round_tokens(x_TD))


def int8_rows(num_rows: int, num_inputs: int, seed: int, encoding: str = "int8_channel") -> StoredTensor:
    rng = np.random.default_rng(seed)
    codes_ND = rng.integers(-127, 128, (num_rows, num_inputs)).astype(np.int8)
    data = encode_int8_rows(codes_ND, rng.uniform(0.001, 0.02, num_rows).astype(np.float32))
    return StoredTensor("matrix", encoding, (num_rows, num_inputs), data)


@pytest.mark.parametrize("num_rows", [3, 70])
def test_int8_of_tokens_and_rows(num_rows: int) -> None:
    weight, x = int8_rows(70, 200, 31), random_rows(num_rows, 200, "f32")
    result = matrix_product(x.to(DEVICE), load_matrix(weight, DEVICE))
    expected = round_tokens(x.numpy()).astype(np.float64) @ dequantize(weight).astype(np.float64).T
    np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times 0 in the interpreter
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_outliers_stay_floats(dtype: str) -> None:
    """In the first step of inputs alone, in a step's last input, and a row of infinity."""
    weight, x = int8_rows(70, 400, 37, "int8_outlier"), random_rows(4, 400, dtype)
    x[0, 5], x[1, 127], x[1, 6], x[3, 300] = 6.0, -40.5, 9.0, np.inf
    result = matrix_product(x.to(DEVICE), load_matrix(weight, DEVICE)).cpu().numpy()
    weights_ND = dequantize(weight).astype(np.float64)
    expected = round_inliers(x[:3].float().numpy()).astype(np.float64) @ weights_ND.T
    np.testing.assert_allclose(result[:3], expected, rtol=1e-5, atol=1e-4)
    assert not np.isfinite(result[3]).any()
    alone = matrix_product(x[2:3].to(DEVICE), load_matrix(weight, DEVICE)).cpu().numpy()
    np.testing.assert_array_equal(alone[0], result[2])


def test_tokens_become_8_bit_floats_as_defined() -> None:
    """Magnitudes over sixteen powers of two, those below the smallest normal number among them; rows not finite."""
    rng = np.random.default_rng(41)
    x_TD = rng.standard_normal((6, 200), dtype=np.float32) * np.exp2(rng.integers(-16, 1, (6, 200))).astype(
        np.float32
    )
    x_TD[1], x_TD[2], x_TD[4, 7], x_TD[5, 9] = 0, 1e-33, np.nan, np.inf
    coded = token_codes(torch.from_numpy(x_TD).to(DEVICE), "fp8_channel")
    numbers_TD = coded.codes_TD.view(torch.float8_e4m3fn).float().cpu().numpy()
    np.testing.assert_array_equal(numbers_TD * coded.scales_T.cpu().numpy()[:, None], round_tokens_fp8(x_TD))


@pytest.mark.parametrize("num_rows", [3, 70])
@pytest.mark.parametrize("is_native", [True, False])
def test_8_bit_floats(num_rows: int, is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_native and not CONVERTS_FP8:
        pytest.skip("the target knows no 8-bit floats")
    if not is_native:
        monkeypatch.setattr(matrix_product_module, "multiplies_fp8", lambda _: False)
    weight = quantize_fp8("matrix", random_rows(70, 200, "f32").numpy())
    x = random_rows(num_rows, 200, "f32")
    result = matrix_product(x.to(DEVICE), load_matrix(weight, DEVICE))
    expected = round_tokens_fp8(x.numpy()).astype(np.float64) @ dequantize(weight).astype(np.float64).T
    np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=0, atol=1e-3 if HAS_DEVICE else 1e-4)
