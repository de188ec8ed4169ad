"""The native sampler and log probabilities against plain float64 NumPy, row by row.

The native sums are float32 and rounded in another order, so a draw may fall to a neighbour where the uniform number
lies within 1e-5 of a border of the cumulated distribution: the check allows exactly that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.errors import EngineError
from vivace.ops.backend import SampleInputs

Row = NDArray[np.float64]
BORDER = 1e-5


def inputs(num_rows: int, **changes: Any) -> SampleInputs:
    """Neutral values, with changes: scalars for every row, lists of (token, count or bias) for sparse ones."""
    defaults = {
        "temperature_S": 1.0,
        "top_p_S": 1.0,
        "min_p_S": 0.0,
        "repetition_S": 1.0,
        "presence_S": 0.0,
        "frequency_S": 0.0,
        "uniform_S": 0.5,
    }
    values: dict[str, Any] = {
        name: np.full(num_rows, changes.get(name, default), np.float32) for name, default in defaults.items()
    }
    values["top_k_S"] = np.full(num_rows, changes.get("top_k_S", 0), np.int32)
    for name in ("history", "bias"):
        pairs: list[tuple[int, float]] = changes.get(name, [])
        second = "history_counts" if name == "history" else "bias_values"
        values[f"{name}_starts_S1"] = (np.arange(num_rows + 1) * len(pairs)).astype(np.int32)
        values[f"{name}_tokens"] = np.array([token for token, _ in pairs] * num_rows, np.int32)
        dtype = np.int32 if name == "history" else np.float32
        values[second] = np.array([value for _, value in pairs] * num_rows, dtype)
    return SampleInputs(**values)


def random_logits(rng: np.random.Generator, num_rows: int, vocabulary: int) -> NDArray[np.float32]:
    logits = rng.standard_normal((num_rows, vocabulary)) * rng.choice([0.1, 1, 5])
    logits[rng.random(logits.shape) < 0.05] = 1.25  # ties
    return np.asarray(logits.astype(np.float32))


def penalized(logits_V: Row, history: list[tuple[int, int]], bias: list[tuple[int, float]], **p: float) -> Row:
    logits_V = logits_V.copy()
    for token, count in history:
        logit = logits_V[token]
        logit = logit / p["repetition_S"] if logit > 0 else logit * p["repetition_S"]
        logits_V[token] = logit - p["frequency_S"] * count - (p["presence_S"] if count > 0 else 0)
    for token, value in bias:
        logits_V[token] += value
    return logits_V


def kept_weights(logits_V: Row, temperature: float, top_k: int, min_p: float, top_p: float) -> Row:
    """Unnormalised probabilities of the tokens that may be drawn."""
    weights_V = np.exp((logits_V - logits_V.max()) / temperature)
    ranked = sorted(range(len(logits_V)), key=lambda token: (-logits_V[token], token))
    ranked = ranked[: top_k or None]
    ranked = [token for token in ranked if weights_V[token] >= min_p]
    total, mass, nucleus = sum(weights_V[ranked]), 0.0, []
    for token in ranked:
        nucleus.append(token)
        mass += weights_V[token]
        if mass >= top_p * total:
            break
    out = np.zeros_like(weights_V)
    out[nucleus] = weights_V[nucleus]
    return out


def check_draw(token: int, weights_V: Row, uniform: float, note: str) -> None:
    upper = np.cumsum(weights_V) / weights_V.sum()
    assert weights_V[token] > 0, note
    assert upper[token] - weights_V[token] / weights_V.sum() - BORDER <= uniform <= upper[token] + BORDER, note


@pytest.mark.parametrize("seed", range(25))
def test_draws_follow_the_definition(cpu: CpuBackend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows, vocabulary = int(rng.integers(1, 5)), int(rng.choice([2, 17, 300, 5003]))
    logits = random_logits(rng, num_rows, vocabulary)
    history = [(int(token), int(rng.integers(0, 4))) for token in rng.permutation(vocabulary)[:5]]
    bias = [(int(token), float(rng.choice([-2, 3, -np.inf]))) for token in rng.permutation(vocabulary)[:1]]
    bias = bias if vocabulary > 2 else []
    chosen = {
        "temperature_S": float(rng.choice([0.3, 1.0, 1.7])),
        "repetition_S": float(rng.choice([1.0, 1.3])),
        "presence_S": float(rng.choice([0.0, 0.5])),
        "frequency_S": float(rng.choice([0.0, 0.25])),
    }
    top_k, min_p, top_p = (
        int(rng.choice([0, 1, 13, 9000])),
        float(rng.choice([0.0, 0.013])),
        float(rng.choice([1.0, 0.9])),
    )
    for uniform in [0.0, *rng.random(6), 0.99999994]:
        tokens = cpu.sample(
            logits,
            inputs(
                num_rows,
                uniform_S=uniform,
                top_k_S=top_k,
                min_p_S=min_p,
                top_p_S=top_p,
                history=history,
                bias=bias,
                **chosen,
            ),
        )
        for row, token in enumerate(tokens):
            exact = penalized(logits[row].astype(np.float64), history, bias, **chosen)
            weights_V = kept_weights(exact, chosen["temperature_S"], top_k, min_p, top_p)
            check_draw(int(token), weights_V, uniform, f"{seed=} {row=} {uniform=}")


def test_frequencies_match_the_distribution(cpu: CpuBackend) -> None:
    logits = np.log(np.array([0.5, 0.2, 0.05, 0.25], np.float32))[None].repeat(4000, 0)
    sample = inputs(4000)
    sample.uniform_S = ((np.arange(4000) + 0.5) / 4000).astype(np.float32)
    counts = np.bincount(cpu.sample(logits, sample), minlength=4)
    np.testing.assert_allclose(counts, [2000, 800, 200, 1000], atol=1)


def test_greedy_takes_the_lowest_id_among_ties(cpu: CpuBackend) -> None:
    logits = np.zeros((3, 50_001), np.float32)
    logits[0, [40, 7000, 50_000]] = 2
    logits[1, 50_000] = 1e-6
    logits[2] = -np.inf
    logits[2, 49_999] = -3e38
    assert cpu.sample(logits, inputs(3, temperature_S=0)).tolist() == [40, 50_000, 49_999]


def test_top_k_of_ties_keeps_the_lowest_ids(cpu: CpuBackend) -> None:
    logits = np.ones((1, 1000), np.float32)
    logits[0, 900] = 1.5
    drawn = {
        int(cpu.sample(logits, inputs(1, top_k_S=4, uniform_S=uniform))[0]) for uniform in np.linspace(0, 0.999, 200)
    }
    assert drawn == {0, 1, 2, 900}


def test_top_p_of_a_flat_distribution_is_not_cut_short(cpu: CpuBackend) -> None:
    logits = np.zeros((1, 20_000), np.float32)
    assert cpu.sample(logits, inputs(1, top_p_S=0.5, uniform_S=0.9999))[0] in range(9990, 10_002)


def test_rows_without_a_usable_logit_give_minus_one(cpu: CpuBackend) -> None:
    logits = np.zeros((5, 33), np.float32)
    logits[0, 32] = np.nan
    logits[1, 3] = np.inf
    logits[2] = -np.inf
    logits[3, 0] = -np.inf
    for temperature in (0.0, 1.0):
        tokens = cpu.sample(logits, inputs(5, temperature_S=temperature))
        assert tokens[:3].tolist() == [-1, -1, -1]
        assert (tokens[3:] >= 0).all()


def test_banning_every_token_gives_minus_one(cpu: CpuBackend) -> None:
    logits = np.zeros((1, 3), np.float32)
    assert cpu.sample(logits, inputs(1, bias=[(token, -np.inf) for token in range(3)])).tolist() == [-1]
    assert cpu.sample(logits, inputs(1, bias=[(0, -np.inf), (2, -np.inf)])).tolist() == [1]


def test_logits_are_not_changed(cpu: CpuBackend) -> None:
    logits = np.random.default_rng(0).standard_normal((2, 77)).astype(np.float32)
    before = logits.copy()
    cpu.sample(logits, inputs(2, history=[(5, 2)], repetition_S=1.5, bias=[(6, 4.0)], top_p_S=0.5))
    np.testing.assert_array_equal(logits, before)


def test_indices_outside_are_refused(cpu: CpuBackend) -> None:
    logits = np.zeros((1, 4), np.float32)
    for changes in ({"history": [(4, 1)]}, {"bias": [(-1, 1.0)]}):
        with pytest.raises(EngineError, match="outside the vocabulary"):
            cpu.sample(logits, inputs(1, **changes))
    broken = inputs(1)
    broken.history_starts_S1 = np.array([0, 5], np.int32)
    with pytest.raises(EngineError, match="starts"):
        cpu.sample(logits, broken)
    with pytest.raises(EngineError, match="one entry for each row"):
        cpu.sample(logits, inputs(2))
    with pytest.raises(EngineError, match="refused"):
        cpu.sample(logits.astype(np.float64), inputs(1))


@pytest.mark.parametrize("vocabulary", [1, 20, 5003])
def test_top_logprobs(cpu: CpuBackend, vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    logits = random_logits(rng, 6, vocabulary)
    tokens = rng.integers(0, vocabulary, 6).astype(np.int32)
    k = min(vocabulary, 20)
    result = cpu.top_logprobs(logits, tokens, k)
    exact = logits.astype(np.float64)
    exact = exact - exact.max(1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(1, keepdims=True))
    for row in range(6):
        ranked = sorted(range(vocabulary), key=lambda token: (-logits[row, token], token))
        assert result.top_ids_SK[row].tolist() == ranked[:k]
        np.testing.assert_allclose(result.top_logprobs_SK[row], exact[row, ranked[:k]], rtol=1e-6, atol=1e-6)
        assert result.rank_S[row] == ranked.index(tokens[row]) + 1
        np.testing.assert_allclose(result.logprob_S[row], exact[row, tokens[row]], rtol=1e-6, atol=1e-6)


def test_top_logprobs_of_a_row_without_a_token(cpu: CpuBackend) -> None:
    logits = np.full((2, 5), -np.inf, np.float32)
    logits[1, 2] = 0
    result = cpu.top_logprobs(logits, np.array([-1, 2], np.int32), 2)
    assert result.logprob_S.tolist() == [-np.inf, 0]
    assert result.rank_S.tolist() == [0, 1]
    assert result.top_logprobs_SK[1].tolist() == [0, -np.inf]
    with pytest.raises(EngineError, match="outside the vocabulary"):
        cpu.top_logprobs(logits, np.array([5, 0], np.int32), 2)
    with pytest.raises(EngineError, match="outside the vocabulary"):
        cpu.top_logprobs(logits, np.array([0, 0], np.int32), 6)
