"""The quantised cache types against their definition in words, computed another way in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vivace.ops import reference_kv
from vivace.ops.backend import KVSpec

SEED = 20261122


def check_nearest(actual: NDArray[Any], x: NDArray[Any], levels: int) -> None:
    """A vector's elements must be at the nearest of levels + 1 evenly spaced numbers that cover its extremes (a tie's
    side is float32's affair); torch finds the bfloat16 neighbours."""
    x = x.astype(np.float64)
    infinity = torch.tensor(torch.inf, dtype=torch.bfloat16)
    minimum = torch.tensor(x.min()).to(torch.bfloat16)
    if minimum.double() > x.min():
        minimum = torch.nextafter(minimum, -infinity)
    exact = torch.tensor((x.max() - minimum.item()) / levels)
    scale = exact.to(torch.bfloat16)
    if scale.double() < exact:
        scale = torch.nextafter(scale, infinity)
    table = minimum.item() + scale.item() * np.arange(levels + 1)
    distances = np.abs(actual[:, None] - table)
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-6 * np.abs(table).max())
    nearest = np.abs(x[:, None] - table).min(axis=1)
    np.testing.assert_allclose(np.abs(actual - x), nearest, rtol=0, atol=1e-3 * scale.item() + 1e-6 * np.abs(x).max())


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 3.0, -40.0])
def test_vectors_go_to_the_nearest_level(offset: float, spread: float) -> None:
    x = (spread * (np.random.default_rng(SEED).standard_normal((20, 80)) + offset)).astype(np.float32)
    int8, int4 = reference_kv.round_int8(x), reference_kv.round_int4(x.astype(np.float64))
    keys = reference_kv.round_channels(x)
    for row in range(20):
        check_nearest(int8[row], x[row], 255)
        for group in (slice(0, 32), slice(32, 64), slice(64, 80)):
            check_nearest(int4[row, group], x[row, group], 15)
    for channel in range(80):
        check_nearest(keys[:, channel], x[:, channel], 15)


def test_constants_and_zeros_are_kept() -> None:
    for value in (0.0, 1.5, -2.0):
        x = np.full((3, 40), value, np.float32)
        np.testing.assert_array_equal(reference_kv.round_int8(x), x)
        np.testing.assert_array_equal(reference_kv.round_int4(x), x)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_breaks_its_group_and_no_other(broken: float) -> None:
    x = np.random.default_rng(SEED).standard_normal((4, 64)).astype(np.float32)
    x[1, 40] = broken
    assert np.isnan(reference_kv.round_int8(x)[1]).all()
    int4 = reference_kv.round_int4(x)
    assert np.isnan(int4[1, 32:]).all()
    assert np.isfinite(int4[1, :32]).all()
    assert np.isfinite(int4[[0, 2, 3]]).all()


def test_numbers_go_to_the_nearest_float8() -> None:
    """As torch rounds them, ties and the smallest numbers among them."""
    halves = np.arange(-480, 481, dtype=np.float32) / 16
    small = np.arange(-40, 41, dtype=np.float32) / 2**11
    x = np.concatenate([halves, small, [447.9, 448.0, -448.0], np.random.default_rng(SEED).normal(0, 9, 900)])
    expected = torch.from_numpy(x.astype(np.float32)).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(reference_kv.nearest_e4m3(x.astype(np.float32)), expected)


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_float8_vectors_are_scaled_to_their_largest_element(spread: float) -> None:
    x = (spread * np.random.default_rng(SEED).standard_normal((50, 80))).astype(np.float32)
    x[3], x[4, 7] = 0, np.inf
    rounded = reference_kv.round_fp8_e4m3(x)
    assert (rounded[3] == 0).all()
    assert np.isnan(rounded[4]).all()
    finite = np.arange(50) != 4
    largest = np.abs(x[finite]).max(axis=1, keepdims=True)
    assert (np.abs(rounded - x)[finite] <= np.maximum(np.abs(x[finite]) / 16, largest / 448 / 2**9)).all()


def test_errors_are_those_of_the_bits() -> None:
    """Uniform rounding errors: a step / sqrt(12), the step being the extremes' distance / levels."""
    x = np.random.default_rng(SEED).standard_normal((2000, 64)).astype(np.float32)
    for rounding, levels, width in ((reference_kv.round_int8, 255, 64), (reference_kv.round_int4, 15, 32)):
        error = np.sqrt(np.mean((rounding(x) - x) ** 2))
        groups = x.reshape(-1, width)
        step = np.sqrt(np.mean((groups.max(1) - groups.min(1)) ** 2)) / levels
        assert 0.9 < error / (step / np.sqrt(12)) < 1.1


def test_sizes_of_a_token() -> None:
    """The Llama-3.2-1B shape, by hand: 16 layers x 8 heads x 64 dimensions, keys and values."""
    heads = 16 * 8
    expected = {
        "f32": heads * 2 * 64 * 4,
        "bf16": heads * 2 * 64 * 2,
        "f16": heads * 2 * 64 * 2,
        "int8_per_token_head": heads * 2 * (64 + 4),
        "int4_per_token_head": heads * 2 * (32 + 2 * 4),
        "int4_k_per_channel": heads * (32 + 64 * 4 // 16 + 32 + 2 * 4),
        "fp8_e4m3": heads * 2 * (64 + 2),
    }
    for dtype, num_bytes in expected.items():
        spec = KVSpec(16, 8, 64, 16, dtype)  # type: ignore[arg-type]
        assert spec.bytes_per_token == num_bytes
        assert spec.bytes_per_block == 16 * num_bytes
    assert KVSpec(16, 8, 64, 16, "int4_k_per_channel").recent_bytes_per_block == heads * 16 * 64 * 2
    assert KVSpec(1, 1, 64, 48, "int4_k_per_channel").bytes_per_token == 78  # 77.33
