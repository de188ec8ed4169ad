"""int4 in groups with zero points, int8 rows with tokens' scales: each on each instruction set.

Shape letters: N outputs, K inputs, M rows of activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized_weights import INT4, INT8_ROWS, llm_int8, pack, product, random_weights, w8a8, with_outliers

from vivace.backends.cpu import _native

Float32Array = NDArray[np.float32]

INT4_SHAPES = {
    "int4_g32": ((16, 32), (1, 96), (33, 160), (172, 352), (512, 512)),
    "int4_g64": ((16, 64), (1, 192), (33, 320), (172, 512)),
    "int4_g128": ((16, 128), (1, 384), (33, 640), (172, 512)),
}
INT4_CASES = [
    (encoding, shape, act_order)
    for encoding in INT4
    for shape in INT4_SHAPES[encoding]
    for act_order in (False, True)
    if not act_order or shape[1] > 128
]
INT8_SHAPES = ((16, 64), (1, 1), (5, 7), (33, 8), (8, 511), (64, 172), (172, 512))
BATCHED = [(encoding, order) for encoding in INT4 for order in (False, True)] + [(name, False) for name in INT8_ROWS]
ROW_COUNTS = (1, 2, 3, 5, 8, 12, 13, 17, 64, 200)


@pytest.fixture(scope="module", params=_native.isa_names())
def device(request: pytest.FixtureRequest) -> Any:
    return _native.Device(1, request.param)


def rows(M: int, K: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed + M).standard_normal((M, K)).astype(np.float32)


@pytest.mark.parametrize(("encoding", "shape", "act_order"), INT4_CASES)
def test_int4_is_within_the_activations_rounding(
    device: Any, encoding: str, shape: tuple[int, int], act_order: bool
) -> None:
    N, K = shape
    weights = random_weights(encoding, N + K, N, K, act_order=act_order)
    order = slice(None) if weights.stored.input_order is None else weights.stored.input_order
    values = weights.values.astype(np.float64)[:, order]
    packed = pack(device, weights.stored)
    for M in (1, 2, 7, 8, 13, 30):
        x_MK = rows(M, K)
        sorted_x = x_MK.astype(np.float64)[:, order]
        step = np.abs(sorted_x).reshape(M, -1, 32).max(axis=2) / 127  # activations are int8 by groups of 32
        tolerance = np.repeat(step * 0.501, 32, axis=1) @ np.abs(values).T
        # Codes and zero points are summed apart: float32 roundings are of terms of up to 16 levels.
        levels = np.abs(weights.matrix.scales_NG[:, weights.matrix.groups_K]).astype(np.float64)[:, order] * 16
        tolerance += np.abs(sorted_x) @ levels.T * 2.0**-24 * max(8.0, K**0.5) * 4
        np.testing.assert_array_less(np.abs(product(device, packed, x_MK, N) - sorted_x @ values.T), tolerance)


@pytest.mark.parametrize("shape", INT8_SHAPES)
def test_w8a8_is_exact(device: Any, shape: tuple[int, int]) -> None:
    N, K = shape
    weights = random_weights("int8_channel", N + K, N, K)
    packed = pack(device, weights.stored)
    for M in (1, 2, 7, 12, 13, 30):
        x_MK = rows(M, K)
        np.testing.assert_array_equal(product(device, packed, x_MK, N), w8a8(weights, x_MK))


@pytest.mark.parametrize("shape", INT8_SHAPES)
def test_llm_int8_keeps_outliers_as_floats(device: Any, shape: tuple[int, int]) -> None:
    N, K = shape
    weights = random_weights("int8_outlier", N + K, N, K)
    packed = pack(device, weights.stored)
    for M in (1, 2, 7, 12, 13, 30):
        x_MK = with_outliers(rows(M, K), M)
        scale = np.abs(x_MK.astype(np.float64)) @ np.abs(weights.values.astype(np.float64)).T
        error = np.abs(product(device, packed, x_MK, N) - llm_int8(weights, x_MK))
        np.testing.assert_array_less(error, scale * 2.0**-24 * 12 + 1e-30)


def test_rows_of_nothing_but_outliers(device: Any) -> None:
    weights = random_weights("int8_outlier", 1, 20, 300)
    x_MK = rows(5, 300) + np.float32(100)
    expected = x_MK.astype(np.float64) @ weights.values.astype(np.float64).T
    actual = product(device, pack(device, weights.stored), x_MK, 20)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=np.abs(expected).max() * 1e-5)


def test_without_outliers_llm_int8_is_w8a8(device: Any) -> None:
    token, outlier = (random_weights(encoding, 5, 40, 200) for encoding in INT8_ROWS)
    x_MK = np.clip(rows(9, 200), -5.9, 5.9)
    one, other = (product(device, pack(device, weights.stored), x_MK, 40) for weights in (token, outlier))
    np.testing.assert_array_equal(one, other)


def test_sums_of_more_inputs_than_an_int32_holds(device: Any) -> None:
    N, K = 17, 140_003
    weights = random_weights("int8_channel", 2, N, K)
    weights.matrix.codes_NK[:4] = 255
    weights.matrix.codes_NK[4:8] = 0
    stored = random_weights("int8_channel", 2, N, K).stored
    stored.data[:4, 4:], stored.data[4:8, 4:] = 0x7F, 0x80
    x_MK = np.ones((3, K), np.float32)
    x_MK[1], x_MK[2] = -1, rows(1, K)[0]
    np.testing.assert_array_equal(product(device, pack(device, stored), x_MK, N), w8a8(weights, x_MK))


@pytest.mark.parametrize("encoding", INT8_ROWS)
def test_extreme_codes_do_not_saturate(device: Any, encoding: str) -> None:
    weights = random_weights(encoding, 3, 16, 256)
    for code in (0, 1, 127, 128, 255):
        weights.matrix.codes_NK[:] = code
        weights.stored.data[:, 4:] = code ^ 0x80
        for sign in (1, -1):
            x_MK = np.full((13, 256), sign, np.float32)
            np.testing.assert_array_equal(
                product(device, pack(device, weights.stored), x_MK, 16), w8a8(weights, x_MK)
            )


@pytest.mark.parametrize(("encoding", "act_order"), BATCHED)
def test_embedding_row_is_bit_equal_to_the_values(device: Any, encoding: str, act_order: bool) -> None:
    N, K = 37, 384
    weights = random_weights(encoding, 4, N, K, act_order=act_order)
    packed = pack(device, weights.stored)
    out_K = np.empty(K, np.float32)
    for row in (0, 20, N - 1):
        device.embedding_row(packed, row, 1.0, out_K)
        np.testing.assert_array_equal(out_K, weights.values[row])
        device.embedding_row(packed, row, 1.7, out_K)
        np.testing.assert_array_equal(out_K, weights.values[row] * np.float32(1.7))


@pytest.mark.parametrize(("encoding", "act_order"), BATCHED)
def test_a_row_has_the_same_bits_in_any_batch(device: Any, encoding: str, act_order: bool) -> None:
    N, K = 52, 768
    packed = pack(device, random_weights(encoding, 3, N, K, act_order=act_order).stored)
    x_MK = with_outliers(rows(max(ROW_COUNTS), K), 8)
    alone = np.concatenate([product(device, packed, x_MK[m : m + 1], N) for m in range(len(x_MK))])
    assert np.isfinite(alone).all()
    for M in ROW_COUNTS:
        np.testing.assert_array_equal(product(device, packed, x_MK[:M], N).view(np.uint32), alone[:M].view(np.uint32))
    reordered = np.random.default_rng(5).permutation(len(x_MK))[:29]
    np.testing.assert_array_equal(product(device, packed, x_MK[reordered], N), alone[reordered])


@pytest.mark.parametrize(("encoding", "act_order"), BATCHED)
def test_threads_and_neighbouring_outputs_do_not_change_bits(device: Any, encoding: str, act_order: bool) -> None:
    N, K = 100, 512
    stored = random_weights(encoding, 6, N, K, act_order=act_order).stored
    x_MK = with_outliers(rows(11, K), 7)
    together = product(device, pack(device, stored), x_MK, N)
    for num_threads in (2, 3):
        threaded = _native.Device(num_threads, device.isa)
        np.testing.assert_array_equal(product(threaded, pack(threaded, stored), x_MK, N), together)
    one = stored.select_rows(slice(37, 38))
    np.testing.assert_array_equal(product(device, pack(device, one), x_MK, 1), together[:, 37:38])


@pytest.mark.parametrize(("encoding", "act_order"), BATCHED)
def test_extreme_activations_stay_in_their_row(device: Any, encoding: str, act_order: bool) -> None:
    N, K = 20, 256
    packed = pack(device, random_weights(encoding, 8, N, K, act_order=act_order).stored)
    x_MK = rows(5, K)
    plain = product(device, packed, x_MK, N)
    x_MK[1, 3] = np.nan
    x_MK[2, 40] = np.inf
    x_MK[3] = 0.0
    out_MN = product(device, packed, x_MK, N)
    np.testing.assert_array_equal(out_MN[[0, 4]], plain[[0, 4]])
    assert not np.isfinite(out_MN[1:3]).any()
    np.testing.assert_array_equal(out_MN[3], np.zeros(N, np.float32))
