"""GPTQ against the straightforward dense solution: the inverse of the remaining Hessian anew for every input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vivace.core.errors import EngineError
from vivace.quantize.gptq import InputHessian, gptq
from vivace.quantize.grid import fit_grid, round_to_nearest
from vivace.quantize.inverse_cholesky import inverse_cholesky

SEED = 2_210_17323
Matrix = NDArray[np.float64]


def correlated_inputs(num_inputs: int, num_tokens: int, seed: int = SEED) -> Matrix:
    """[T, K] with scales that differ and directions that many inputs share."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((num_inputs, num_inputs)) * np.exp(rng.standard_normal(num_inputs))
    return rng.standard_normal((num_tokens, num_inputs)) @ mixing / np.sqrt(num_inputs)


def dense_solution(
    weights: Matrix, hessian: Matrix, bits: int, group_size: int, symmetric: bool
) -> tuple[NDArray[np.uint8], Matrix]:
    """Optimal brain surgeon, input by input (equations 2 and 3 of the paper): codes and the rounded weights."""
    remaining, rounded = weights.copy(), np.zeros_like(weights)
    codes = np.zeros(weights.shape, np.uint8)
    for i in range(weights.shape[1]):
        if i % group_size == 0:
            grid = fit_grid(remaining[:, i : i + group_size], bits, symmetric)
        codes[:, i] = grid.codes(remaining[:, i : i + 1])[:, 0]
        rounded[:, i] = grid.values(codes[:, i : i + 1])[:, 0]
        inverse = np.linalg.inv(hessian[i:, i:])
        error = (remaining[:, i] - rounded[:, i]) / inverse[0, 0]
        remaining[:, i:] -= np.outer(error, inverse[0])
    return codes, rounded


@pytest.mark.parametrize("group_size", [32, 64, 160])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_the_dense_solution(group_size: int, symmetric: bool) -> None:
    inputs = correlated_inputs(160, 400)
    weights = np.random.default_rng(SEED + 1).standard_normal((12, 160))
    hessian = 2 * inputs.T @ inputs
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(160)
    codes, rounded = dense_solution(weights, damped, 4, group_size, symmetric)
    matrix = gptq(weights, InputHessian(hessian.copy(), 0.01, False), 4, group_size, symmetric)
    np.testing.assert_array_equal(matrix.codes_NK, codes)
    np.testing.assert_allclose(matrix.dequantize(), rounded, rtol=1e-6)
    assert matrix.group_of_K is None


def test_activation_order_is_the_same_on_ordered_inputs() -> None:
    inputs = correlated_inputs(96, 300)
    weights = np.random.default_rng(SEED + 2).standard_normal((8, 96))
    hessian = 2 * inputs.T @ inputs
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = hessian + 0.02 * np.diag(hessian).mean() * np.eye(96)
    codes, rounded = dense_solution(weights[:, order], damped[order][:, order], 4, 32, True)
    matrix = gptq(weights, InputHessian(hessian.copy(), 0.02, True), 4, 32, True)
    np.testing.assert_array_equal(matrix.codes_NK[:, order], codes)
    np.testing.assert_allclose(matrix.dequantize()[:, order], rounded, rtol=1e-6)
    assert matrix.group_of_K is not None
    np.testing.assert_array_equal(matrix.group_of_K[order], np.arange(96) // 32)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [32, 128, 300])
def test_outputs_are_nearer_than_by_rounding(group_size: int, act_order: bool) -> None:
    inputs = correlated_inputs(300, 900)
    weights = np.random.default_rng(SEED + 3).standard_normal((40, 300)).astype(np.float32)

    def error(rounded: NDArray[np.float32]) -> float:
        return float(np.linalg.norm((rounded - weights) @ inputs.T))

    by_gptq = gptq(weights, InputHessian(2 * inputs.T @ inputs, 0.01, act_order), 4, group_size, True)
    nearest = round_to_nearest(weights, 4, group_size, True)
    assert error(by_gptq.dequantize()) < 0.85 * error(nearest.dequantize())


def test_rows_are_rounded_apart_from_each_other() -> None:
    """Which is why a matrix may be taken in blocks of rows."""
    inputs = correlated_inputs(64, 200)
    weights = np.random.default_rng(SEED + 4).standard_normal((10, 64)).astype(np.float32)
    hessian = InputHessian(2 * inputs.T @ inputs, 0.01, False)
    whole = gptq(weights, hessian, 4, 32, False)
    part = gptq(weights[3:7], hessian, 4, 32, False)
    np.testing.assert_array_equal(whole.codes_NK[3:7], part.codes_NK)


def test_dead_inputs_get_weight_zero_and_harm_nobody() -> None:
    inputs = correlated_inputs(64, 200)
    inputs[:, [3, 40]] = 0
    weights = np.random.default_rng(SEED + 5).standard_normal((6, 64)).astype(np.float32)
    matrix = gptq(weights, InputHessian(2 * inputs.T @ inputs, 0.01, True), 4, 64, True)
    values = matrix.dequantize()
    assert (values[:, [3, 40]] == 0).all()
    assert np.isfinite(values).all()


@pytest.mark.parametrize("size", [1, 7, 256, 600])
def test_inverse_factor(size: int) -> None:
    """Sizes below, at and above the block; on a mapped file as well."""
    rng = np.random.default_rng(SEED + size)
    root = rng.standard_normal((size, size + 5))
    matrix = root @ root.T / size + np.eye(size)
    factor = inverse_cholesky(matrix.copy())
    assert (np.tril(factor, -1) == 0).all()
    np.testing.assert_allclose(factor.T @ factor, np.linalg.inv(matrix), atol=1e-9)


def test_a_mapped_hessian_gives_the_same(tmp_path: Path) -> None:
    inputs = correlated_inputs(300, 500)
    hessian = 2 * inputs.T @ inputs
    mapped = np.memmap(tmp_path / "hessian", np.float64, "w+", shape=hessian.shape)
    mapped[:] = hessian
    ours, expected = InputHessian(mapped, 0.01, True), InputHessian(hessian.copy(), 0.01, True)
    np.testing.assert_array_equal(ours.factor_KK, expected.factor_KK)


def test_what_has_no_inverse_is_refused() -> None:
    with pytest.raises(EngineError, match="raise the damping"):
        inverse_cholesky(np.diag([1.0, -1.0]))
