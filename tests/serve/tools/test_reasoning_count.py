"""Tokens of reasoning, whatever the cut: against a count over the whole text's places."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from vivace.serve.reasoning_count import ReasoningCount

SEED = 20261122
TEXTS = [
    (False, "<think>\nLet me see.\n</think>\n\nThe answer. <think>no</think>"),
    (False, "  <think>a </thin> < b</think>c</think>"),
    (False, "<think></think>x"),
    (False, "<thi no thought</think>"),
    (False, "<think>never closed </thi"),
    (True, "I see.</think> The answer."),
    (True, "</think>x"),
    (True, "only <reasoning></"),
]


def counted(opened: bool, tokens: list[str]) -> int:
    count = ReasoningCount(opened=opened)
    for token in tokens:
        count.push(token)
    count.finish()
    count.finish()
    return count.num_tokens


def places(opened: bool, text: str) -> range:
    """Of the characters between the tags."""
    if opened:
        start = 0
    elif not text.lstrip().startswith("<think>"):
        return range(0)
    else:
        start = text.index("<think>") + len("<think>")
    end = text.find("</think>", start)
    return range(start, len(text) if end < 0 else end)


@pytest.mark.parametrize(("opened", "text"), TEXTS)
def test_tokens_with_text_between_the_tags(opened: bool, text: str) -> None:
    generator = random.Random(SEED)
    inside = places(opened, text)
    for _ in range(300):
        share = generator.choice((0.1, 0.5, 0.9))
        cuts = [0, *(at for at in range(1, len(text)) if generator.random() < share), len(text)]
        spans = list(pairwise(cuts))
        expected = sum(1 for start, end in spans if max(start, inside.start) < min(end, inside.stop))
        assert counted(opened, [text[start:end] for start, end in spans]) == expected, (SEED, cuts)


def test_tokens_without_text_count_where_they_stand() -> None:
    assert counted(True, ["", "a", "", "</think>", "", "b", ""]) == 3
    assert counted(False, ["", "<think>", "", "a", "</th", "", "ink>", ""]) == 2
