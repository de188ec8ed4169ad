"""Sampling and log probabilities by kernels: token for token what the reference draws, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton_interpreter  # noqa: F401  skips where torch or triton is missing
from test_cpu_sampling import inputs, random_logits
from test_cpu_sampling_masks import masked
from test_cuda_sampling import varied
from triton_interpreter import DEVICE, HAS_DEVICE

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.kernels import sampling, top_tokens
from vivace.ops import reference_sampling


@pytest.fixture(scope="module")
def backend() -> CudaBackend:
    return CudaBackend(str(DEVICE), interpreted=not HAS_DEVICE)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that rows have several of them."""
    for module in (sampling, top_tokens):
        monkeypatch.setattr(module, "TILE", 256)


@pytest.mark.parametrize("seed", range(5))
def test_draws_what_the_reference_draws(backend: CudaBackend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([1, 2, 33, 300]))
    logits = random_logits(rng, 8, vocabulary)
    logits[rng.random(logits.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf])
    sample = varied(rng, 8, vocabulary)
    if seed % 2:
        sample = masked(sample, [2, -1, 0, 1, 2, -1, 0, 0], rng.random((3, vocabulary)) < 0.5)
    expected = reference_sampling.sample(logits.copy(), sample)
    actual = backend.sample(torch.from_numpy(logits).to(DEVICE), sample)
    assert actual.tolist() == expected.tolist()


def test_ties_of_top_k_and_top_p_go_to_the_lowest_ids(backend: CudaBackend) -> None:
    """All weights alike but one: what is kept are the lowest ids, across tiles."""
    logits = np.zeros((6, 300), np.float32)
    logits[:, 280] = 1
    logits[:, 0] = -0.0
    sample = inputs(6)
    sample.uniform_S = np.array([0, 0.7, 0.9999] * 2, np.float32)
    sample.top_k_S = np.array([270] * 3 + [290] * 3, np.int32)
    sample.top_p_S = np.array([1.0] * 3 + [0.9] * 3, np.float32)
    expected = reference_sampling.sample(logits.copy(), sample)
    assert backend.sample(torch.from_numpy(logits).to(DEVICE), sample).tolist() == expected.tolist()


def test_rows_without_a_finite_logit_and_greedy_ties(backend: CudaBackend) -> None:
    logits = np.full((4, 257), -np.inf, np.float32)
    logits[1] = np.nan
    logits[2, [130, 256]] = -3e38
    logits[3, 5] = np.inf
    for temperature in (0.0, 1.0):
        tokens = backend.sample(
            torch.from_numpy(logits).to(DEVICE), inputs(4, temperature_S=temperature, uniform_S=0.0)
        )
        assert tokens.tolist() == [-1, -1, 130, -1]


@pytest.mark.parametrize("k", [0, 3])
def test_log_probabilities_and_ranks(backend: CudaBackend, k: int) -> None:
    rng = np.random.default_rng(k)
    logits = random_logits(rng, 6, 300)
    logits[0, ::3] = np.nan
    logits[1] = -np.inf
    logits[2, 3:] = -np.inf
    tokens = np.array([1, 5, 2, -1, 299, 17], np.int32)
    expected = reference_sampling.top_logprobs(logits.copy(), tokens, k)
    actual = backend.top_logprobs(torch.from_numpy(logits).to(DEVICE), tokens, k)
    assert actual.rank_S.tolist() == expected.rank_S.tolist()
    assert actual.top_ids_SK.tolist() == expected.top_ids_SK.tolist()
    np.testing.assert_allclose(actual.logprob_S, expected.logprob_S, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(actual.top_logprobs_SK, expected.top_logprobs_SK, rtol=1e-6, atol=2e-6)


def test_the_kernels_ran(backend: CudaBackend) -> None:
    explained = " ".join(backend.kernels.explain())
    assert "sampling: triton" in explained
    assert "top_tokens: triton" in explained
