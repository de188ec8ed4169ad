"""Counts that grow with a sequence are those of counting all of it."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import UNKNOWN, Sequence
from vivace.runtime.token_counts import FEW, TokenCounts

SEED = random.SystemRandom().randrange(2**32)


def sequence_of(prompt: list[int]) -> Sequence:
    return Sequence("request", 0, array("i", prompt), len(prompt), SamplingParams(presence_penalty=0.5), 0, 0)


def counted(prompt: list[int], output: list[int]) -> dict[int, int]:
    return dict.fromkeys(prompt, 0) | Counter(output)


def read(counts: TokenCounts, guesses: list[int] | None = None) -> dict[int, int]:
    tokens, times = counts.read(guesses or ())
    assert len(set(tokens.tolist())) == len(tokens) == len(times)
    return dict(zip(tokens.tolist(), times.tolist(), strict=True))


@pytest.mark.parametrize("vocabulary", [3, 50, 4 * FEW])
def test_counts_follow_a_growing_sequence(vocabulary: int) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    prompt = [rng.randrange(vocabulary) for _ in range(rng.choice([1, 5, FEW, 3 * FEW]))]
    sequence, output = sequence_of(prompt), []
    counts = TokenCounts(sequence)
    for _ in range(60):
        new = [rng.randrange(vocabulary) for _ in range(rng.choice([0, 1, 1, 2, 2 * FEW]))]
        sequence.tokens.extend(new)
        output += new
        assert read(counts) == counted(prompt, output)
        guesses = [rng.randrange(2 * vocabulary) for _ in range(rng.randrange(5))]
        assert read(counts, guesses) == counted(prompt, output + guesses)
        assert read(counts) == counted(prompt, output), "guesses leave nothing behind"


def test_tokens_that_only_the_device_knows_are_not_counted() -> None:
    sequence = sequence_of([4, 4, 7])
    counts = TokenCounts(sequence)
    sequence.tokens.append(UNKNOWN)
    assert read(counts) == {4: 0, 7: 0}
    sequence.tokens.pop()
    sequence.tokens.extend([7, UNKNOWN])
    assert read(counts) == {4: 0, 7: 1}
    assert read(counts, [9, UNKNOWN]) == {4: 0, 7: 1, 9: 1}
