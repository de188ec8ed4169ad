"""Round-to-nearest codes against the definition, one group at a time in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivace.core.errors import UnsupportedError
from vivace.formats.quantize_rtn import quantize_matrix


def weights(N: int, K: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, K)).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("K", "group_size"), [(128, 32), (96, -1), (100, 64), (5, 1)])
def test_symmetric_levels_are_torchs(bits: int, K: int, group_size: int) -> None:
    values = weights(9, K)
    matrix = quantize_matrix(values, bits, group_size, symmetric=True)
    assert matrix.is_symmetric
    size = K if group_size == -1 else group_size
    half = 1 << (bits - 1)
    for n in range(9):
        for g, start in enumerate(range(0, K, size)):
            group = torch.from_numpy(values[n, start : start + size])
            scale = float(np.abs(group.numpy()).max() * np.float32(2) / np.float32(2**bits - 1))
            assert matrix.scales_NG[n, g] == np.float32(scale)
            rounded = torch.fake_quantize_per_tensor_affine(group, scale, 0, -half, half - 1).numpy()
            ours = matrix.dequantize()[n, start : start + size]
            # torch multiplies by 1 / scale: the largest magnitude, half-way between two levels, goes to either.
            clear = np.abs(np.abs(group.numpy() / scale) % 1 - 0.5) > 1e-3
            np.testing.assert_allclose(ours[clear], rounded[clear], rtol=1e-6, atol=0)
            np.testing.assert_allclose(ours, group.numpy(), atol=scale * 0.5001)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_asymmetric_levels_reach_both_extremes_and_zero(bits: int, shift: float) -> None:
    values = weights(7, 96) + np.float32(shift)
    matrix = quantize_matrix(values, bits, 32, symmetric=False)
    groups = values.reshape(7, 3, 32)
    low, high = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
    np.testing.assert_allclose(matrix.scales_NG, (high - low) / (2**bits - 1), rtol=1e-6)
    # Rounding the zero point moves every level by up to half a step, so that an extreme may be clipped by as much.
    error = np.abs(matrix.dequantize() - values).reshape(7, 3, 32)
    assert (error <= matrix.scales_NG[:, :, None] * 1.0001).all()
    assert np.median(error / matrix.scales_NG[:, :, None]) < 0.3


def test_zeros_stay_zero() -> None:
    for symmetric in (True, False):
        matrix = quantize_matrix(np.zeros((2, 64), np.float32), 4, 32, symmetric)
        np.testing.assert_array_equal(matrix.dequantize(), np.zeros((2, 64), np.float32))
        tiny = quantize_matrix(np.full((2, 64), 1e-42, np.float32), 4, 32, symmetric)
        np.testing.assert_array_equal(tiny.dequantize(), np.zeros((2, 64), np.float32))


def test_chunks_of_rows_do_not_change_codes() -> None:
    values = weights(3000, 256)
    whole = quantize_matrix(values, 4, 64, False)
    part = quantize_matrix(values[1700:1710], 4, 64, False)
    np.testing.assert_array_equal(whole.codes_NK[1700:1710], part.codes_NK)
    np.testing.assert_array_equal(whole.scales_NG[1700:1710], part.scales_NG)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_without_levels_are_refused(bad: float) -> None:
    values = weights(4, 64)
    values[2, 5], values[2, 6] = bad, -bad
    with pytest.raises(UnsupportedError, match=r"layers\.0\.q"):
        quantize_matrix(values, 8, -1, name="layers.0.q")


@pytest.mark.parametrize(("bits", "group_size"), [(1, 32), (9, 32), (4, 0), (4, -2)])
def test_senseless_sizes_are_refused(bits: int, group_size: int) -> None:
    with pytest.raises(UnsupportedError):
        quantize_matrix(weights(2, 32), bits, group_size)
