"""Each packed layout on each instruction set, against a float64 product of the dequantised weights.

The oracle for block types is `gguf.quants`, which shares no code with the kernels.
Shape letters: N outputs, K inputs, M rows of activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as BlockType
from numpy.typing import NDArray

from vivace.backends.cpu import _native

Float32Array = NDArray[np.float32]
Uint8Array = NDArray[np.uint8]

LAYOUTS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")
BLOCK_INPUTS = {"f32": 1, "f16": 1, "bf16": 1, "q4_k": 256, "q5_k": 256, "q6_k": 256}
# A block's bytes, and where its f16 factors lie: random codes need sane factors.
BLOCK_BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q4_k": 144, "q5_k": 176, "q6_k": 210}
FACTORS_AT = {"q8_0": (0,), "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2)} | {
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
}
SHAPES = {  # N, K by the inputs of a block
    1: ((16, 64), (1, 1), (5, 7), (172, 64), (64, 172), (33, 8), (8, 511), (512, 512)),
    32: ((16, 64), (3, 32), (33, 96), (512, 512), (172, 352)),
    256: ((16, 256), (1, 256), (33, 768), (172, 512)),
}
CASES = [(layout, shape) for layout in LAYOUTS for shape in SHAPES[BLOCK_INPUTS.get(layout, 32)]]
ROW_COUNTS = (1, 2, 3, 5, 8, 17, 64, 200)


@dataclass(frozen=True)
class Weights:
    """A random matrix as a file stores it, and its exact values [N, K]."""

    layout: str
    stored: Uint8Array
    values: Float32Array


def random_blocks(layout: str, rng: np.random.Generator, N: int, K: int) -> Uint8Array:
    block_bytes = BLOCK_BYTES[layout]
    blocks = rng.integers(0, 256, (N, K // BLOCK_INPUTS.get(layout, 32), block_bytes), dtype=np.uint8)
    for at in FACTORS_AT[layout]:
        factors = (rng.standard_normal(blocks.shape[:2]) * 10.0 ** rng.uniform(-5, 0, blocks.shape[:2])).astype("<f2")
        blocks[..., at : at + 2] = factors[..., None].view(np.uint8)
    return np.ascontiguousarray(blocks.reshape(N, -1))


def random_weights(layout: str, seed: int, N: int, K: int) -> Weights:
    rng = np.random.default_rng(seed)
    if layout in BLOCK_BYTES:
        stored = random_blocks(layout, rng, N, K)
        return Weights(layout, stored, gguf.quants.dequantize(stored, BlockType[layout.upper()]))
    values = rng.standard_normal((N, K)).astype(np.float32)
    if layout == "bf16":
        bits = values.view(np.uint32) >> 16
        return Weights(layout, bits.astype("<u2").view(np.uint8), (bits << 16).view(np.float32))
    stored_values = values.astype("<f4" if layout == "f32" else "<f2")
    return Weights(layout, stored_values.view(np.uint8), stored_values.astype(np.float32))


def pack(device: Any, weights: Weights) -> Any:
    return device.pack(LAYOUTS.index(weights.layout), weights.stored, weights.values.shape[1])


def product(device: Any, matrix: Any, x_MK: Float32Array, N: int) -> Float32Array:
    out_MN = np.full((x_MK.shape[0], N), np.nan, np.float32)
    device.linear(matrix, np.ascontiguousarray(x_MK), out_MN)
    return out_MN


def activation_error(layout: str, isa: str, x_MK: Float32Array) -> NDArray[np.float64]:
    """Bound of |x as the kernel reads it - x|: half a step of int8 per group of 32, or half a unit of bf16."""
    magnitude = np.abs(x_MK.astype(np.float64))
    if layout in BLOCK_BYTES:
        groups = magnitude.reshape(x_MK.shape[0], -1, 32)
        return np.repeat(groups.max(axis=2) / 127 * 0.501, 32, axis=1)
    return magnitude * 2.0**-8 if layout == "bf16" and isa == "avx512_bf16" else np.zeros_like(magnitude)


@pytest.fixture(scope="module", params=_native.isa_names())
def device(request: pytest.FixtureRequest) -> Any:
    return _native.Device(1, request.param)


@pytest.mark.parametrize(("layout", "shape"), CASES)
def test_product_is_within_the_activations_rounding(device: Any, layout: str, shape: tuple[int, int]) -> None:
    N, K = shape
    weights = random_weights(layout, 10 * N + K, N, K)
    matrix = pack(device, weights)
    for M in (1, 2, 7, 8, 13, 30):
        x_MK = np.random.default_rng(M).standard_normal((M, K)).astype(np.float32)
        values = weights.values.astype(np.float64)
        exact = x_MK.astype(np.float64) @ values.T
        # Float32 sums: at most K roundings, in practice a few units of the terms' magnitude.
        rounding = (np.abs(x_MK.astype(np.float64)) @ np.abs(values).T) * 2.0**-24 * max(8.0, K**0.5)
        # The K types' values are scale * code - minimum: rounded when dequantised, exact in the kernel.
        tolerance = activation_error(layout, device.isa, x_MK) @ np.abs(values).T + 4 * rounding + 1e-30
        np.testing.assert_array_less(np.abs(product(device, matrix, x_MK, N) - exact), tolerance)


@pytest.mark.parametrize(("layout", "shape"), CASES)
def test_embedding_row_is_bit_equal_to_dequantize(device: Any, layout: str, shape: tuple[int, int]) -> None:
    N, K = shape
    weights = random_weights(layout, N + K, N, K)
    matrix = pack(device, weights)
    out_K = np.empty(K, np.float32)
    for row in {0, N // 2, N - 1}:
        device.embedding_row(matrix, row, 1.0, out_K)
        np.testing.assert_array_equal(out_K.view(np.uint32), weights.values[row].view(np.uint32))
        device.embedding_row(matrix, row, 1.7, out_K)
        np.testing.assert_array_equal(out_K, weights.values[row] * np.float32(1.7))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_has_the_same_bits_in_any_batch(device: Any, layout: str) -> None:
    N, K = 52, 768
    matrix = pack(device, random_weights(layout, 3, N, K))
    x_MK = np.random.default_rng(4).standard_normal((max(ROW_COUNTS), K)).astype(np.float32)
    alone = np.concatenate([product(device, matrix, x_MK[m : m + 1], N) for m in range(len(x_MK))])
    assert np.isfinite(alone).all()
    for M in ROW_COUNTS:
        np.testing.assert_array_equal(product(device, matrix, x_MK[:M], N).view(np.uint32), alone[:M].view(np.uint32))
    reordered = np.random.default_rng(5).permutation(len(x_MK))[:29]
    np.testing.assert_array_equal(product(device, matrix, x_MK[reordered], N), alone[reordered])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_and_neighbouring_outputs_do_not_change_bits(device: Any, layout: str) -> None:
    N, K = 100, 512
    weights = random_weights(layout, 6, N, K)
    x_MK = np.random.default_rng(7).standard_normal((11, K)).astype(np.float32)
    together = product(device, pack(device, weights), x_MK, N)
    for num_threads in (2, 3):
        threaded = _native.Device(num_threads, device.isa)
        np.testing.assert_array_equal(product(threaded, pack(threaded, weights), x_MK, N), together)
    one = Weights(layout, weights.stored[37:38], weights.values[37:38])
    np.testing.assert_array_equal(product(device, pack(device, one), x_MK, 1), together[:, 37:38])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_extreme_activations_stay_in_their_row(device: Any, layout: str) -> None:
    N, K = 20, 256
    matrix = pack(device, random_weights(layout, 8, N, K))
    x_MK = np.random.default_rng(9).standard_normal((5, K)).astype(np.float32)
    plain = product(device, matrix, x_MK, N)
    x_MK[1, 3] = np.nan
    x_MK[2, 40] = np.inf
    x_MK[3] = 0.0
    out_MN = product(device, matrix, x_MK, N)
    np.testing.assert_array_equal(out_MN[[0, 4]], plain[[0, 4]])
    assert not np.isfinite(out_MN[1:3]).any()
    np.testing.assert_array_equal(out_MN[3], np.zeros(N, np.float32))


@pytest.mark.parametrize("layout", sorted(BLOCK_BYTES))
def test_extreme_codes_do_not_saturate(device: Any, layout: str) -> None:
    N, K = 16, 256
    for fill in (0x00, 0xFF, 0x80, 0x7F):
        stored = np.full((N, K // BLOCK_INPUTS.get(layout, 32), BLOCK_BYTES[layout]), fill, np.uint8)
        for at in FACTORS_AT[layout]:
            stored[..., at : at + 2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
        weights = np.ascontiguousarray(stored.reshape(N, -1))
        values = gguf.quants.dequantize(weights, BlockType[layout.upper()]).astype(np.float64)
        matrix = pack(device, Weights(layout, weights, values.astype(np.float32)))
        for sign in (1.0, -1.0):
            x_MK = np.full((3, K), sign, np.float32)  # code 127 each, exactly
            exact = x_MK.astype(np.float64) @ values.T
            scale = np.abs(x_MK).astype(np.float64) @ np.abs(values).T
            np.testing.assert_array_less(np.abs(product(device, matrix, x_MK, N) - exact), scale * 1e-4 + 1e-6)
