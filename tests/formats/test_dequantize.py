"""Every encoding of files against the gguf package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize

from vivace.core.errors import EngineError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.ggml_types import GGML_TYPES
from vivace.formats.quantize_rtn import encode, quantize_q4_0, quantize_q8_0
from vivace.formats.tensor import FILE_ENCODINGS, StoredTensor, row_bytes

# Where half-precision numbers stand in a block: random bytes there would often be NaN or infinite.
SCALE_BYTES = {
    "q4_0": [0],
    "q4_1": [0, 2],
    "q5_0": [0],
    "q5_1": [0, 2],
    "q8_0": [0],
    "q4_k": [0, 2],
    "q5_k": [0, 2],
    "q6_k": [208],
}


def ggml_type(encoding: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[encoding.upper()]


def random_stored(encoding: str, rows: int, columns: int, seed: int) -> StoredTensor:
    """Random bytes; of every half-precision scale the top exponent bit is cleared, so that it is finite."""
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (rows, row_bytes(encoding, columns)), np.uint8)
    if encoding in ("f32", "f16", "bf16"):
        numbers = generator.standard_normal((rows, columns)).astype(np.float32) * 10
        data = encode(numbers, encoding).data
    blocks = data.reshape(-1, FILE_ENCODINGS[encoding][1])
    for start in SCALE_BYTES.get(encoding, []):
        blocks[:, start + 1] &= 0xBF
    return StoredTensor(f"{encoding} seed {seed}", encoding, (rows, columns), data)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("encoding", FILE_ENCODINGS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (7, 512), (700, 1024)])
def test_random_bytes_equal_the_gguf_package(encoding: str, rows: int, columns: int) -> None:
    tensor = random_stored(encoding, rows, columns, seed=rows)
    assert_same_bits(dequantize(tensor), gguf_dequantize(tensor.data, ggml_type(encoding)))


@pytest.mark.parametrize("encoding", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16"])
def test_what_the_gguf_package_quantises(encoding: str) -> None:
    weights = np.random.default_rng(5).standard_normal((40, 128)).astype(np.float32)
    data = gguf_quantize(weights, ggml_type(encoding))
    tensor = StoredTensor("w", encoding, weights.shape, data)
    assert_same_bits(dequantize(tensor), gguf_dequantize(data, ggml_type(encoding)))


@pytest.mark.parametrize("encoding", FILE_ENCODINGS)
def test_shapes_other_than_matrices(encoding: str) -> None:
    matrix = random_stored(encoding, 6, 256, seed=1)
    cube = StoredTensor("cube", encoding, (2, 3, 256), matrix.data)
    assert_same_bits(dequantize(cube), dequantize(matrix).reshape(2, 3, 256))
    vector = StoredTensor("vector", encoding, (256,), matrix.data[:1])
    assert_same_bits(dequantize(vector), dequantize(matrix)[0])


def test_scalar_and_unaligned_data() -> None:
    numbers = np.array([1.5, -2.25], np.float32)
    scalar = StoredTensor("scalar", "f32", (), numbers[:1].view(np.uint8).reshape(1, 4))
    assert scalar.num_columns == 1
    assert_same_bits(dequantize(scalar), np.array(1.5, np.float32))
    shifted = np.frombuffer(b"\0" + numbers.tobytes(), np.uint8)[1:].reshape(1, 8)
    assert_same_bits(dequantize(StoredTensor("shifted", "f32", (2,), shifted)), numbers)


@pytest.mark.parametrize("encoding", FILE_ENCODINGS)
def test_selected_rows_are_the_rows(encoding: str) -> None:
    tensor = random_stored(encoding, 9, 256, seed=3)
    whole = dequantize(tensor)
    assert_same_bits(dequantize(tensor.select_rows(slice(1, None, 3))), whole[1::3])
    assert_same_bits(dequantize(tensor.select_rows([8, 0, 8])), whole[[8, 0, 8]])


def test_selecting_rows_of_a_vector_is_refused() -> None:
    with pytest.raises(EngineError, match="needs a matrix"):
        StoredTensor("v", "f32", (2,), np.zeros((1, 8), np.uint8)).select_rows([0])


def test_infinite_scales_are_what_ieee_says() -> None:
    data = np.zeros((1, 34), np.uint8)
    data[0, :2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    data[0, 2] = 1
    weights = dequantize(StoredTensor("w", "q8_0", (32,), data))
    assert weights[0] == np.inf
    assert np.isnan(weights[1:]).all()


def test_unknown_encoding_is_named() -> None:
    with pytest.raises(UnsupportedError, match="q2_k"):
        dequantize(StoredTensor("w", "q2_k", (256,), np.zeros((1, 84), np.uint8)))


def test_type_table_equals_the_gguf_package() -> None:
    for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":  # the package still has its size of 2023; ggml's block is two halves and 32 bytes
            sizes = (32, 36)
        if kind in GGML_TYPES:
            assert tuple(GGML_TYPES[kind]) == (kind.name, *sizes)
    assert {kind.encoding for kind in GGML_TYPES.values()} - {None} == set(FILE_ENCODINGS)


@pytest.mark.parametrize("encoding", ["q8_0", "q4_0", "bf16", "f16", "f32"])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4, 1e-7])
def test_encode_equals_the_gguf_package(encoding: str, scale: float) -> None:
    weights = (np.random.default_rng(11).standard_normal((257, 96)) * scale).astype(np.float32)
    weights[3] = 0
    weights[4, :32] = 0.5 * scale  # ties
    expected = gguf_quantize(weights, ggml_type(encoding)).view(np.uint8).reshape(257, -1)
    tensor = encode(weights, encoding, "w")
    assert (tensor.name, tensor.encoding, tensor.shape) == ("w", encoding, (257, 96))
    np.testing.assert_array_equal(tensor.data, expected)


def test_quantize_functions_are_encode() -> None:
    weights = np.random.default_rng(2).standard_normal((5, 64)).astype(np.float32)
    np.testing.assert_array_equal(quantize_q8_0(weights), gguf_quantize(weights, ggml_type("q8_0")))
    np.testing.assert_array_equal(quantize_q4_0(weights), gguf_quantize(weights, ggml_type("q4_0")))


def test_encode_spans_several_chunks() -> None:
    weights = np.random.default_rng(4).standard_normal((1300, 512)).astype(np.float32)
    np.testing.assert_array_equal(encode(weights, "q8_0").data, gguf_quantize(weights, ggml_type("q8_0")))


def test_bf16_rounds_to_nearest_even_as_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(6).integers(0, 2**32, 100_000, np.uint32)
    bits = np.concatenate([bits, bits & np.uint32(0xFFFF8000)])  # half of these are exact ties
    weights = bits.view(np.float32)
    weights = weights[~np.isnan(weights)]
    with np.errstate(over="ignore"):
        expected = weights.astype(ml_dtypes.bfloat16).view(np.uint8).reshape(1, -1)
    np.testing.assert_array_equal(encode(weights, "bf16").data, expected)


def test_bf16_keeps_nan_and_infinity() -> None:
    weights = np.array([0x7F800001, 0xFF800001, 0x7F800000, 0xFF800000], np.uint32).view(np.float32)
    decoded = dequantize(encode(weights, "bf16"))
    assert np.isnan(decoded[:2]).all()
    assert decoded[2:].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(("encoding", "largest"), [("f16", 65504.0), ("q8_0", 8.3e6), ("q4_0", 5.2e5)])
def test_numbers_that_do_not_fit_are_refused(encoding: str, largest: float) -> None:
    weights = np.full((2, 32), largest, np.float32)
    assert np.isfinite(dequantize(encode(weights, encoding))).all()
    for bad in (np.nan, np.inf, largest * 1.1):
        weights[1, 7] = bad
        with pytest.raises(UnsupportedError, match="cannot hold"):
            encode(weights, encoding)


@pytest.mark.parametrize("encoding", ["q8_0", "q4_0"])
def test_subnormal_blocks_become_zero(encoding: str) -> None:
    weights = np.full((1, 32), 1e-40, np.float32)
    assert not dequantize(encode(weights, encoding)).any()


def test_encode_refuses_what_it_cannot_write() -> None:
    with pytest.raises(UnsupportedError, match="q4_k"):
        encode(np.zeros((1, 256), np.float32), "q4_k")
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        encode(np.zeros((1, 172), np.float32), "q8_0")


def test_encode_takes_any_shape_and_stride() -> None:
    weights = np.random.default_rng(8).standard_normal((3, 64, 2)).astype(np.float32)
    assert_same_bits(dequantize(encode(weights[:, :, 1], "f32")), np.ascontiguousarray(weights[:, :, 1]))
    assert encode(weights, "bf16").shape == (3, 64, 2)
    assert encode(np.float32(3), "f16").data.shape == (1, 2)
