"""Levels: the nearest one of all, scales as checkpoints store them."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.core.errors import UnsupportedError
from vivace.quantize.grid import fit_grid, round_rows_to_int8, round_to_nearest, stacked

SEED = 41


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_the_nearest_of_all_levels(bits: int, symmetric: bool) -> None:
    weights = np.random.default_rng(SEED).standard_normal((5, 96)).astype(np.float32)
    matrix = round_to_nearest(weights, bits, 32, symmetric)
    scales, zeros = matrix.scales_NG[:, matrix.groups_K], matrix.zeros_NG[:, matrix.groups_K].astype(np.float32)
    levels = scales[..., None] * (np.arange(1 << bits) - zeros[..., None])
    nearest = np.abs(levels - weights[..., None]).min(axis=-1)
    ours = np.abs(matrix.dequantize() - weights)
    np.testing.assert_allclose(ours, nearest, atol=1e-6)
    assert (matrix.scales_NG == matrix.scales_NG.astype(np.float16)).all()
    assert matrix.is_symmetric == symmetric


def test_extremes_have_levels() -> None:
    weights = np.array([[-1.0, 3.0] + [0.5] * 30], np.float32)
    grid = fit_grid(weights, 4, False)
    np.testing.assert_allclose(grid.values(grid.codes(weights))[0, :2], [-1, 3], atol=4 / 15 / 2)
    assert grid.nearest(np.zeros((1, 1), np.float32)) == 0
    int8 = round_rows_to_int8(weights)
    assert int8.codes_NK[0, 1] == 128 + 127
    assert int8.scales_NG[0, 0] == np.float32(3) / 127


def test_shrinking_clips() -> None:
    weights = np.linspace(-1, 1, 32, dtype=np.float32)[None]
    half = round_to_nearest(weights, 4, 32, True, np.array([[0.5]], np.float32))
    assert np.abs(half.dequantize()).max() < 0.56
    inner = np.abs(weights) < 0.4
    full = round_to_nearest(weights, 4, 32, True)
    assert np.abs(half.dequantize() - weights)[inner].max() < np.abs(full.dequantize() - weights)[inner].max()


def test_zeros_and_tiny_weights_stay_finite() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1] = 1e-12
    for symmetric in (True, False):
        assert np.isfinite(round_to_nearest(weights, 4, 32, symmetric).dequantize()).all()
        assert (round_to_nearest(weights, 4, 32, symmetric).dequantize()[0] == 0).all()
    assert (round_rows_to_int8(weights).dequantize()[0] == 0).all()


def test_stacked_blocks_are_the_whole() -> None:
    weights = np.random.default_rng(SEED + 1).standard_normal((10, 70)).astype(np.float32)
    whole = round_to_nearest(weights, 4, 32, False)
    parts = stacked([round_to_nearest(weights[rows], 4, 32, False) for rows in (slice(0, 3), slice(3, 10))])
    np.testing.assert_array_equal(parts.dequantize(), whole.dequantize())


def test_scales_that_no_file_holds_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="files hold scales up to 65504"):
        round_to_nearest(np.full((1, 32), 1e30, np.float32), 4, 32, True)
