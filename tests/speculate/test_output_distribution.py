"""What comes out of sampling with speculation is distributed as without: two tokens of a known chain, 10^5 draws.

The target is a table of next-token logits by the last token, the draft another table; guesses are drawn as
`DraftModel` draws them, with the request's settings and random numbers. Expected probabilities are computed apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult
from vivace.runtime.sampler import SamplerInputs
from vivace.speculate import verification

VOCABULARY = 6
DRAWS = 100_000
AT_ONCE = 4_000
START = 0  # the prompt's only token
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_k": 4},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.3, "min_p": 0.2},
    {"temperature": 0.9, "presence_penalty": 0.7, "repetition_penalty": 1.2},
]
Tables = tuple[np.ndarray, np.ndarray]
Accept = Callable[[Sequence, list[int], list[int]], int]


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Logits [last token, next token] of the target and the draft, alike but not equal."""
    generator = np.random.default_rng(4)
    target = generator.normal(0, 1.5, (VOCABULARY, VOCABULARY)).astype(np.float32)
    return target, (target + generator.normal(0, 0.8, target.shape)).astype(np.float32)


def next_probabilities(logits: np.ndarray, params: SamplingParams, seen: list[int], output: list[int]) -> np.ndarray:
    """The definition, for one row in float64."""
    row = logits.astype(np.float64).copy()
    for token in set(seen):
        row[token] = (
            row[token] / params.repetition_penalty if row[token] > 0 else row[token] * params.repetition_penalty
        )
        row[token] -= params.presence_penalty * (token in output)
    weights = np.exp((row - row.max()) / params.temperature)
    order = sorted(range(VOCABULARY), key=lambda token: -weights[token])
    if params.top_k:
        order = order[: params.top_k]
    order = [token for token in order if weights[token] >= params.min_p * weights.max()]
    if params.top_p < 1:
        total, kept = sum(weights[token] for token in order), []
        for token in order:
            kept.append(token)
            if sum(weights[one] for one in kept) >= params.top_p * total:
                break
        order = kept
    probabilities = np.zeros(VOCABULARY)
    probabilities[order] = weights[order] / weights[order].sum()
    return probabilities


def expected_pairs(target: np.ndarray, params: SamplingParams) -> np.ndarray:
    first = next_probabilities(target[START], params, [START], [])
    return np.stack(
        [
            first[token] * next_probabilities(target[token], params, [START, token], [token])
            for token in range(VOCABULARY)
        ]
    )


def speculated_pairs(tables: Tables, params: SamplingParams, accept: Accept) -> tuple[np.ndarray, float]:
    """Counts [first token, second token] of DRAWS requests, and how many first guesses stood."""
    target, draft = tables
    backend, counts, num_stood = CpuBackend(num_threads=1), np.zeros((VOCABULARY, VOCABULARY)), 0

    def sample(table: np.ndarray, sequences: list[Sequence], ahead: list[list[int]]) -> list[int]:
        last = [guesses[-1] if guesses else one.tokens[-1] for one, guesses in zip(sequences, ahead, strict=True)]
        inputs = SamplerInputs().build(sequences, VOCABULARY, ahead)
        tokens: list[int] = backend.sample(np.ascontiguousarray(table[last]), inputs).tolist()
        return tokens

    for first in range(0, DRAWS, AT_ONCE):
        sequences = [
            Sequence(f"r{seed}", 0, array("i", [START]), 1, params, seed, seed)
            for seed in range(first, first + AT_ONCE)
        ]
        guesses = sample(draft, sequences, [[] for _ in sequences])
        plan = StepPlan(
            [ScheduledSequence(one, 0, 2, True, draft=[guess]) for one, guess in zip(sequences, guesses, strict=True)]
        )
        rows = [one for one in sequences for _ in range(2)]
        tokens = sample(target, rows, [ahead for guess in guesses for ahead in ([], [guess])])
        result = StepResult(rows, tokens, None, [])
        original, verification.num_accepted = verification.num_accepted, accept
        try:
            accepted, stood = verification.verify(plan, result)
        finally:
            verification.num_accepted = original
        num_stood += sum(stood)
        for one, token in [
            *zip(accepted.sequences, accepted.tokens, strict=True),
            *zip(result.sequences, result.tokens, strict=True),
        ]:
            one.tokens.append(token)
        short = [one for one in sequences if len(one.tokens) == 2]
        for one, token in zip(short, sample(target, short, [[] for _ in short]), strict=True):
            one.tokens.append(token)
        np.add.at(counts, ([one.tokens[1] for one in sequences], [one.tokens[2] for one in sequences]), 1)
    return counts, num_stood / DRAWS


def chi_square(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """The statistic over cells that can occur, and its degrees of freedom."""
    possible = expected > 0
    assert counts[~possible].sum() == 0
    wanted = expected[possible] * DRAWS
    return float(((counts[possible] - wanted) ** 2 / wanted).sum()), int(possible.sum()) - 1


def limit(degrees: int) -> float:
    """Wilson and Hilferty's approximation of the 99.99% quantile."""
    return degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_distribution_is_the_targets(tables: Tables, setting: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=8, **setting)
    expected = expected_pairs(tables[0], params)
    counts, rate = speculated_pairs(tables, params, verification.num_accepted)
    statistic, degrees = chi_square(counts, expected)
    assert statistic < limit(degrees)
    assert 0.5 * np.abs(counts / DRAWS - expected).sum() < 0.01  # total variation
    assert 0.3 < rate < 1.0


def test_a_wrong_rule_is_noticed(tables: Tables) -> None:
    """One that lets a guess stand although another token was drawn, if only the guess is among the likelier ones."""
    params = SamplingParams(max_tokens=8, temperature=1.0)
    likely = next_probabilities(tables[0][START], params, [START], []) > 0.15

    def lenient(_: Sequence, draft: list[int], sampled: list[int]) -> int:
        return int(draft[0] == sampled[0] or bool(likely[draft[0]]))

    counts, _ = speculated_pairs(tables, params, lenient)
    statistic, degrees = chi_square(counts, expected_pairs(tables[0], params))
    assert statistic > 2 * limit(degrees)
