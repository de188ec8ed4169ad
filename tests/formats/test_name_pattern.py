"""Patterns mean what `re.match` says, and never take long."""

from __future__ import annotations

import random
import re

import pytest

from vivace.core.errors import ModelFileError
from vivace.formats.name_pattern import NamePattern

SEED = 65
PATTERNS = [
    ".*lm_head",
    r"model\.layers\.(\d|1[0-5])\.mlp\..*",
    ".*(gate|up)_proj$",
    "^model.layers.3.self_attn",
    r".*\.(q|k|v)_proj",
    r"(?:model\.)?layers\.\d{1,2}\.",
    r"[^.]+\.layers\.[0-46-9]\.mlp\.(?:up|down)_proj",
    r"model\.layers\.(?:0|1|2)\.self_attn\.[qkv]_proj$",
    "x*y?|model",
    "",
    "$",
    "(a|ab)(c|bcd)*?d+$",
]
NAMES = [
    "",
    "lm_head",
    "model.lm_head",
    "abcd",
    "abcdd",
    "xxy",
    *(f"model.layers.{n}.mlp.{part}_proj" for n in (0, 3, 5, 15, 16) for part in ("gate", "up", "down")),
    *(f"layers.{n}.self_attn.{part}_proj" for n in (3, 123) for part in "qkvo"),
    "model.layers.3.self_attn.q_proj",
]


@pytest.mark.parametrize("text", PATTERNS)
def test_patterns_mean_what_python_says(text: str) -> None:
    pattern = NamePattern(text)
    assert [pattern.fits(name) for name in NAMES] == [re.match(text, name) is not None for name in NAMES]


def random_pattern(rng: random.Random, depth: int) -> str:
    def atom() -> str:
        if depth and rng.random() < 0.3:
            return f"({random_pattern(rng, depth - 1)})"
        return rng.choice(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", "^", "$"])

    repeats = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"]
    return rng.choice(["", "|"]).join(
        "".join(piece + (rng.choice(repeats) if piece not in "^$" else "") for piece in (atom(), atom()))
        for _ in range(rng.randint(1, 2))
    )


def test_random_patterns_mean_what_python_says() -> None:
    rng = random.Random(SEED)
    for _ in range(1500):
        text = random_pattern(rng, 2)
        pattern = NamePattern(text)
        for _ in range(8):
            name = "".join(rng.choice("ab.") for _ in range(rng.randint(0, 7)))
            assert pattern.fits(name) == (re.match(text, name) is not None), (SEED, text, name)


def test_what_stops_a_backtracking_matcher_is_quick() -> None:
    """Python's `re` would take 2**1000 steps for the first."""
    for text in ("(a+)+$", "(a|a)*b$", "(.*)*(.*)*(.*)*x$", "((a?){20}){20}$"):
        assert not NamePattern(text).fits("a" * 1000 + "!")


UNSERVED = [
    "(",
    ")",
    "a)",
    "(a",
    "[",
    "[b-a]",
    "*",
    "a**",
    "a{2}{3}",
    "a*+",
    "(?!a)b",
    "(?i)a",
    r"(a)\1",
    r"\bx",
    "a{3,2}",
]
HUGE = ["a" * 257, "((((a{99}){99}){99}){99})", "a{", "\\", "(" * 200]


@pytest.mark.parametrize("text", UNSERVED + HUGE)
def test_what_is_not_served_is_named(text: str) -> None:
    with pytest.raises(ModelFileError, match="is not supported") as caught:
        NamePattern.parse(text, "some/config.json", "targets")
    assert caught.value.field == "targets"
