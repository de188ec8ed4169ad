"""Products that round activations by definition: the reference against torch, the CPU backend against the reference.

Shape letters: N outputs, K inputs, M rows of activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paged_steps import run_rows
from paged_steps import stored as stored_floats
from quantized_weights import INT4, INT8_ROWS, Weights, llm_int8, random_weights, token_codes, w8a8, with_outliers

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.errors import EngineError
from vivace.formats.quantize_rtn import quantize_matrix
from vivace.formats.stored_matrix import stored_matrix
from vivace.formats.tensor import StoredTensor
from vivace.ops.program import Program, Value
from vivace.ops.reference_activations import round_inliers, round_tokens

SEED = 20261122


def rows(M: int, K: int, seed: int = SEED) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((M, K)).astype(np.float32)


def linear(backend: Any, matrices: list[StoredTensor], x_MK: NDArray[np.float32]) -> NDArray[np.float32]:
    """One product of x with all matrices side by side, as a program runs it."""
    packed = [backend.pack("w", matrix) for matrix in matrices]

    def record(program: Program, x: Value) -> Value:
        return program.linear(x, packed)

    return run_rows(backend, x_MK, record)


def test_tokens_are_rounded_as_torch_rounds_them() -> None:
    x_MK = rows(20, 300) * np.logspace(-20, 20, 20, dtype=np.float32)[:, None]
    codes, scale = token_codes(torch.from_numpy(x_MK))
    np.testing.assert_array_equal(round_tokens(x_MK), (codes.float() * scale).numpy())
    assert int(codes.abs().max()) == 127


def test_tokens_of_zeros_and_of_numbers_that_are_not_finite() -> None:
    x_MK = rows(5, 8)
    x_MK[1] = 0
    x_MK[2] = 1e-40
    x_MK[3, 2] = np.inf
    x_MK[4, 2] = np.nan
    rounded = round_tokens(x_MK)
    np.testing.assert_array_equal(rounded[1:3], 0)
    assert np.isnan(rounded[3:]).all()
    assert rounded.dtype == np.float32


def test_outliers_stay_and_do_not_count() -> None:
    x_MK = with_outliers(rows(6, 100), 3)
    is_outlier = np.abs(x_MK) >= 6
    assert is_outlier.any()
    rounded = round_inliers(x_MK)
    np.testing.assert_array_equal(rounded[is_outlier], x_MK[is_outlier])
    steps = np.abs(np.where(is_outlier, 0, x_MK)).max(axis=1, keepdims=True) / 127
    assert (np.abs(rounded - x_MK) <= steps * 0.501).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_reference_is_what_the_papers_say(dtype: Any) -> None:
    x_MK = with_outliers(rows(7, 96), 1)
    token, outlier = (random_weights(encoding, 2, 24, 96) for encoding in INT8_ROWS)
    backend = ReferenceBackend(dtype)
    np.testing.assert_allclose(linear(backend, [token.stored], x_MK), w8a8(token, x_MK), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear(backend, [outlier.stored], x_MK), llm_int8(outlier, x_MK), rtol=1e-4, atol=1e-4)


def side_by_side() -> list[Weights]:
    """Every kind of prepared activations, twice, with orders of their own: none may read another's."""
    weights = [
        random_weights(encoding, seed, 20, 256, act_order=act_order)
        for seed in (1, 2)
        for encoding in (*INT4, *INT8_ROWS)
        for act_order in ((False, True) if encoding in INT4 else (False,))
    ]
    return [*weights, weights[1], weights[9]]


def test_matrices_side_by_side_read_their_own_activations(cpu: CpuBackend) -> None:
    x_MK = with_outliers(rows(30, 256), 2)
    weights = side_by_side()
    together = linear(cpu, [each.stored for each in weights], x_MK)
    apart = [linear(cpu, [each.stored], x_MK) for each in weights]
    np.testing.assert_array_equal(together, np.concatenate(apart, axis=1))
    truth = linear(ReferenceBackend(np.float64), [each.stored for each in weights], x_MK)
    half_steps = np.abs(x_MK).max(axis=1, keepdims=True) / 127 * 0.51  # int4 rounds activations, by groups of 32
    magnitude_N = np.abs(np.concatenate([each.values for each in weights])).sum(axis=1)
    np.testing.assert_array_less(np.abs(together - truth), half_steps * magnitude_N + 1e-3)


@pytest.mark.parametrize("encoding", ["f32", "q8_0"])
def test_any_encoding_may_have_an_order(cpu: CpuBackend, encoding: str) -> None:
    x_MK, weights_NK = rows(3, 128), rows(20, 128, 4)
    order = np.random.default_rng(5).permutation(128).astype(np.int32)
    plain = stored_floats(weights_NK) if encoding == "f32" else stored_matrix("w", quantize_matrix(weights_NK, 8, 32))
    ordered = StoredTensor("w", encoding, (20, 128), plain.data, order)
    unsorted_x = np.empty_like(x_MK)
    unsorted_x[:, order] = x_MK
    np.testing.assert_array_equal(linear(cpu, [ordered], unsorted_x), linear(cpu, [plain], x_MK))


@pytest.mark.parametrize("order", [[0] * 128, list(range(1, 129)), list(range(127)), [-1, *range(127)]])
def test_what_is_no_order_is_refused(cpu: CpuBackend, order: list[int]) -> None:
    plain = stored_floats(rows(4, 128))
    with pytest.raises(EngineError, match="input_order"):
        cpu.pack("w", StoredTensor("w", "f32", (4, 128), plain.data, np.array(order, np.int32)))


def relative_error(actual: NDArray[np.float32], truth: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(actual - truth) / np.linalg.norm(truth))


def test_planted_outliers_break_w8a8_and_not_llm_int8(cpu: CpuBackend) -> None:
    """Three features of 60 times the others' size, as large models have them, read by small weights (Dettmers et
    al., 2022): one scale a token then leaves the other 509 features two or three levels."""
    rng = np.random.default_rng(SEED)
    x_MK, weights_NK = rows(40, 512), rows(96, 512, 6) / np.float32(512**0.5)
    features = rng.choice(512, 3, replace=False)
    x_MK[:, features] = rng.choice([-1, 1], (40, 3)) * rng.uniform(55, 65, (40, 3))
    weights_NK[:, features] *= 0.02
    matrix = quantize_matrix(weights_NK, 8, -1)
    truth = (
        x_MK.astype(np.float64) @ matrix.dequantize().astype(np.float64).T
    )  # what rounding activations costs alone
    errors = {
        activations: [
            relative_error(linear(backend, [stored_matrix("w", matrix, activations)], x_MK), truth)
            for backend in (cpu, ReferenceBackend())
        ]
        for activations in ("token", "outlier")
    }
    assert min(errors["token"]) > 0.1, errors
    assert max(errors["outlier"]) < 0.02, errors
