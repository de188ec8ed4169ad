"""What comes out of sampling with trees is distributed as without: two tokens of a known chain, 10^5 draws.

As test_output_distribution.py, whose target and draft these are; here the draft's likeliest tokens form a tree of
five guesses, as Medusa heads propose them. Typical acceptance and a wrong rule must fail.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from test_output_distribution import (
    AT_ONCE,
    DRAWS,
    SETTINGS,
    START,
    VOCABULARY,
    Tables,
    chi_square,
    expected_pairs,
    limit,
)

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.draft_tree import DraftTree
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult
from vivace.runtime.sampler import SamplerInputs
from vivace.speculate import verification
from vivace.speculate.typical import TypicalAcceptance

TREE = DraftTree((-1, 0, -1, 0, 2))
NUM_ROWS = 1 + len(TREE.parents)
Accept = Callable[[Sequence, list[int], DraftTree, list[int]], list[int]]


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Logits [last token, next token] of the target and the draft, alike but not equal."""
    generator = np.random.default_rng(4)
    target = generator.normal(0, 1.5, (VOCABULARY, VOCABULARY)).astype(np.float32)
    return target, (target + generator.normal(0, 0.8, target.shape)).astype(np.float32)


def guesses(draft: np.ndarray) -> list[int]:
    """The draft's two likeliest first tokens; behind the first of them its two likeliest, behind the other one."""
    first, other = np.argsort(-draft[START])[:2].tolist()
    below = np.argsort(-draft[first])[:2].tolist()
    return [first, below[0], other, below[1], int(np.argmax(draft[other]))]


def speculated_pairs(
    tables: Tables, params: SamplingParams, accept: Accept, judge: TypicalAcceptance | None = None
) -> tuple[np.ndarray, float]:
    """Counts [first token, second token] of DRAWS requests, and the guesses that stood for each of them."""
    target, draft = tables
    backend, counts, num_stood = CpuBackend(num_threads=1), np.zeros((VOCABULARY, VOCABULARY)), 0
    tree = guesses(draft)
    paths = [[], *([tree[guess] for guess in path] for path in TREE.paths)]

    def logits_of(sequences: list[Sequence], ahead: list[list[int]]) -> np.ndarray:
        last = [path[-1] if path else one.tokens[-1] for one, path in zip(sequences, ahead, strict=True)]
        return np.ascontiguousarray(target[last])

    def sample(sequences: list[Sequence], ahead: list[list[int]]) -> np.ndarray:
        inputs = SamplerInputs().build(sequences, VOCABULARY, ahead)
        return backend.sample(logits_of(sequences, ahead), inputs)

    for first in range(0, DRAWS, AT_ONCE):
        sequences = [
            Sequence(f"r{seed}", 0, array("i", [START]), 1, params, seed, seed)
            for seed in range(first, first + AT_ONCE)
        ]
        plan = StepPlan([ScheduledSequence(one, 0, NUM_ROWS, True, draft=list(tree), tree=TREE) for one in sequences])
        rows = [one for one in sequences for _ in range(NUM_ROWS)]
        tokens = sample(rows, paths * len(sequences))
        if judge is not None:
            judge(plan, logits_of(rows, paths * len(sequences)), tokens)
        result = StepResult(rows, tokens.tolist(), None, [])
        original, verification.accepted_path = verification.accepted_path, accept
        try:
            accepted, stood = verification.verify(plan, result)
        finally:
            verification.accepted_path = original
        num_stood += sum(stood)
        for one, token in [
            *zip(accepted.sequences, accepted.tokens, strict=True),
            *zip(result.sequences, result.tokens, strict=True),
        ]:
            one.tokens.append(token)
        short = [one for one in sequences if len(one.tokens) == 2]
        for one, token in zip(short, sample(short, [[] for _ in short]).tolist(), strict=True):
            one.tokens.append(token)
        np.add.at(counts, ([one.tokens[1] for one in sequences], [one.tokens[2] for one in sequences]), 1)
    return counts, num_stood / DRAWS


@pytest.fixture(scope="module")
def exact(tables: Tables) -> Callable[..., tuple[np.ndarray, float]]:
    """`speculated_pairs` by our own rule, once for each setting."""

    @cache
    def pairs(**setting: Any) -> tuple[np.ndarray, float]:
        return speculated_pairs(tables, SamplingParams(max_tokens=8, **setting), verification.accepted_path)

    return pairs


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_distribution_is_the_targets(
    tables: Tables, exact: Callable[..., tuple[np.ndarray, float]], setting: dict[str, Any]
) -> None:
    expected = expected_pairs(tables[0], SamplingParams(max_tokens=8, **setting))
    counts, num_stood = exact(**setting)
    statistic, degrees = chi_square(counts, expected)
    assert statistic < limit(degrees)
    assert 0.5 * np.abs(counts / DRAWS - expected).sum() < 0.01  # total variation
    assert 0.5 < num_stood < 2.0


def test_a_wrong_rule_is_noticed(tables: Tables) -> None:
    """One that follows the first guess, whatever was drawn."""
    params = SamplingParams(max_tokens=8, temperature=1.0)

    rule = verification.accepted_path

    def credulous(sequence: Sequence, draft: list[int], tree: DraftTree, sampled: list[int]) -> list[int]:
        return rule(sequence, draft, tree, sampled) or [0]

    counts, _ = speculated_pairs(tables, params, credulous)
    statistic, degrees = chi_square(counts, expected_pairs(tables[0], params))
    assert statistic > 2 * limit(degrees)


def test_typical_acceptance_is_another_distribution(
    tables: Tables, exact: Callable[..., tuple[np.ndarray, float]]
) -> None:
    """More guesses stand, and only the draft's favourites gain."""
    params = SamplingParams(max_tokens=8, temperature=1.0)
    _, before = exact(temperature=1.0)
    counts, after = speculated_pairs(tables, params, verification.accepted_path, TypicalAcceptance(0.09, 0.3))
    statistic, degrees = chi_square(counts, expected_pairs(tables[0], params))
    assert statistic > 2 * limit(degrees)
    assert after > before + 0.2
