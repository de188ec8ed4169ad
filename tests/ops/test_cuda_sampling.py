"""The torch sampler on torch's CPU device: token for token what the reference draws. No GPU is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_cpu_sampling import inputs, random_logits
from test_cpu_sampling_masks import masked

from vivace.backends.cuda import logprobs, sampling
from vivace.backends.cuda.backend import CudaBackend
from vivace.core.errors import EngineError
from vivace.ops import reference_sampling
from vivace.ops.backend import SampleInputs

BACKEND = CudaBackend("cpu")
VARIED: dict[str, tuple[float, ...]] = {
    "temperature_S": (0.0, 0.3, 1.0, 1.7),
    "top_k_S": (0, 1, 13, 9000),
    "min_p_S": (0.0, 0.013, 1.0),
    "top_p_S": (1.0, 0.9, 0.2),
    "repetition_S": (1.0, 1.3),
    "presence_S": (0.0, 0.5),
    "frequency_S": (0.0, 0.25),
    "uniform_S": (0.0, 0.31, 0.77, 0.99999994),
}


def varied(rng: np.random.Generator, num_rows: int, vocabulary: int) -> SampleInputs:
    """Other parameters in every row."""
    history = [(int(token), int(rng.integers(0, 4))) for token in rng.permutation(vocabulary)[:5]]
    bias = [(int(token), float(rng.choice([-2, 3, -np.inf]))) for token in rng.permutation(vocabulary)[:2]]
    sample = inputs(num_rows, history=history, bias=bias if vocabulary > 2 else [])
    for name, choices in VARIED.items():
        column = getattr(sample, name)
        setattr(sample, name, rng.choice(choices, num_rows).astype(column.dtype))
    return sample


def both(logits: np.ndarray, sample: SampleInputs) -> tuple[list[int], list[int]]:
    expected = reference_sampling.sample(logits.copy(), sample)
    return BACKEND.sample(torch.from_numpy(logits), sample).tolist(), expected.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_draws_what_the_reference_draws(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([1, 2, 31, 33, 300, 5003]))
    monkeypatch.setattr(sampling, "SLICE_ELEMENTS", 3 * vocabulary)
    logits = random_logits(rng, 8, vocabulary)
    logits[rng.random(logits.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf])
    sample = varied(rng, 8, vocabulary)
    if seed % 2:
        sample = masked(sample, [2, -1, 0, 1, 2, -1, 0, 0], rng.random((3, vocabulary)) < 0.5)
    before = logits.copy()
    actual, expected = both(logits, sample)
    assert actual == expected
    np.testing.assert_array_equal(logits, before)


def test_ties_go_to_the_lowest_id() -> None:
    logits = np.ones((1, 1000), np.float32)
    logits[0, 900] = 1.5
    for uniform in np.linspace(0, 0.999, 50):
        actual, expected = both(logits, inputs(1, top_k_S=4, uniform_S=uniform))
        assert actual == expected
        assert actual[0] in {0, 1, 2, 900}
    assert both(np.ones((1, 77), np.float32), inputs(1, temperature_S=0))[0] == [0]


def test_rows_without_a_finite_logit_give_minus_one() -> None:
    logits = np.full((2, 9), -np.inf, np.float32)
    logits[1] = np.nan
    for temperature in (0.0, 1.0):
        assert both(logits, inputs(2, temperature_S=temperature, top_p_S=0.5))[0] == [-1, -1]


@pytest.mark.parametrize("vocabulary", [1, 20, 5003])
def test_log_probabilities_are_the_reference_s(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "SLICE_ELEMENTS", 4 * vocabulary)
    rng = np.random.default_rng(vocabulary)
    logits = random_logits(rng, 9, vocabulary)
    logits[7] = -np.inf
    tokens = rng.integers(0, vocabulary, 9).astype(np.int32)
    tokens[8] = -1
    k = min(vocabulary, 20)
    expected = reference_sampling.top_logprobs(logits.copy(), tokens, k)
    actual = BACKEND.top_logprobs(torch.from_numpy(logits), tokens, k)
    np.testing.assert_array_equal(actual.rank_S, expected.rank_S)
    np.testing.assert_array_equal(actual.top_ids_SK, expected.top_ids_SK)
    np.testing.assert_allclose(actual.logprob_S, expected.logprob_S, rtol=1e-6)
    np.testing.assert_allclose(actual.top_logprobs_SK, expected.top_logprobs_SK, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"history": [(4, 1)]}, {"bias": [(-1, 1.0)]}], ids=["history", "bias"])
def test_tokens_outside_the_vocabulary_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="outside the vocabulary"):
        BACKEND.sample(torch.zeros((1, 4)), inputs(1, **changes))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EngineError, match="one entry for each row"):
        BACKEND.sample(torch.zeros((1, 4)), inputs(2))
    for index, words, message in (([0, 1], 2, "not there"), ([0, 0], 1, "one bit"), ([0], 2, "one entry")):
        sample = inputs(2)
        sample.mask_index_S, sample.mask_RW = np.array(index, np.int32), np.zeros((1, words), np.uint32)
        with pytest.raises(EngineError, match=message):
            BACKEND.sample(torch.zeros((2, 40)), sample)
    with pytest.raises(EngineError, match="outside the vocabulary"):
        BACKEND.top_logprobs(torch.zeros((1, 4)), np.array([4], np.int32), 2)
