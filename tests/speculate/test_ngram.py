"""The index against a search of the whole text."""

from __future__ import annotations

import random
from array import array

import pytest

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence
from vivace.speculate.ngram import LONGEST_MATCH, MAX_CANDIDATES, NgramProposer, TokenIndex


def sequence(tokens: list[int]) -> Sequence:
    return Sequence("request", 0, array("i", tokens), len(tokens), SamplingParams(), 0, 0)


def searched(tokens: list[int], min_match: int, most: int) -> list[int]:
    """The newest MAX_CANDIDATES earlier places with the last `min_match` tokens; of them the longest common past."""
    last = len(tokens)
    ends = [end for end in range(last - 1, min_match - 1, -1) if tokens[end - min_match : end] == tokens[-min_match:]]
    best, best_match = None, 0
    for end in ends[:MAX_CANDIDATES]:
        match = min_match
        while match < min(end, LONGEST_MATCH) and tokens[end - match - 1] == tokens[last - match - 1]:
            match += 1
        if match > best_match:
            best, best_match = end, match
    if best is None:
        return []
    followed = tokens[best:]
    while len(followed) < most:
        followed += tokens[best:]
    return followed[:most]


@pytest.mark.parametrize("min_match", [1, 2, 3, 5])
def test_equals_a_search(min_match: int) -> None:
    seed = 100 + min_match
    print(f"seed {seed}")
    generator = random.Random(seed)
    text = sequence([generator.randrange(3) for _ in range(2)])
    index = TokenIndex(min_match)
    for _ in range(300):
        index.extend(text)
        assert index.continuation(text, 7)[0] == searched(text.tokens.tolist(), min_match, 7)
        text.tokens.extend(generator.randrange(3) for _ in range(generator.randrange(1, 4)))


def test_nothing_to_repeat() -> None:
    proposer = NgramProposer(2)
    text = sequence([1, 2, 3, 4, 5])
    assert proposer.available(text, 5) == 0
    assert proposer.propose([ScheduledSequence(text, 4, 6, True, draft=[-1] * 5)]) == [[]]


def test_proposes_what_followed() -> None:
    proposer = NgramProposer(2)
    text = sequence([7, 8, 9, 10, 11, 7, 8])
    assert proposer.available(text, 3) == 3
    assert proposer.propose([ScheduledSequence(text, 6, 3, True, draft=[-1] * 2)]) == [[9, 10]]
    proposer.forget(text)
    assert proposer.propose([ScheduledSequence(text, 6, 3, True, draft=[-1] * 2)]) == [[]]
