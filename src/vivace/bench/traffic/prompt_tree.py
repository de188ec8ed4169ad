"""Prompts that share exactly the prefixes that they are to share."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from vivace.bench.traffic.prompt_text import PromptText

# The smallest unit in which engines share prefixes: blocks that part, part within so many tokens.
ENGINE_BLOCK_LEN = 16
# Whole words of so many are compared: the word behind them ends before the 16th, or nearly all do.
_OPENING_TOKENS = 8
_NUM_PLACES = 32  # tried before a text gets words in front that tell it apart
_NUM_LEADS = 1024
_ROOT = 0


class PromptTree:
    """Texts of one run of traffic, as a tree of blocks.

    The same chain of block hashes gives the same text; chains that part give texts that differ within the first
    `ENGINE_BLOCK_LEN` tokens of the block where they part. A prompt without hashes shares nothing with any other. A
    block's first child goes on where the block's text ends, so that a prompt which nobody branches off reads as one
    text. What a prompt says depends on the seed and on the prompts that were asked for before it.
    """

    def __init__(self, text: PromptText, seed: int | str) -> None:
        self._text = text
        self._random = Random(f"{seed} text")
        self._children: dict[tuple[int, int], int] = {}
        self._starts: list[tuple[int, tuple[str, ...]]] = [(0, ())]  # by node: first word, words in front of it
        self._openings: set[tuple[int, str]] = set()

    def prompt(self, num_tokens: int, block_hashes: Sequence[int] = (), block_len: int = 0) -> str:
        """A text of `num_tokens` tokens, the tokenizer's frame among them, in blocks of `block_len` tokens; what is
        left behind the last hash is the prompt's own."""
        parts: list[str] = []
        node, word = _ROOT, None
        left = num_tokens - self._text.num_frame_tokens
        size = block_len - self._text.num_frame_tokens
        for block_hash in block_hashes:
            if left <= 0:
                break
            size = min(size, left)
            child = self._children.get((node, block_hash))
            if child is None:
                child = self._children[node, block_hash] = self._new(node, word, size)
            text, word = self._passage(child, size, opens=node == _ROOT)
            parts.append(text)
            node, left, size = child, left - size, block_len
        if left > 0:
            text, _ = self._passage(self._new(node, word, left), left, opens=node == _ROOT)
            parts.append(text)
        return "".join(parts)

    def content(self, num_tokens: int) -> str:
        """A message of `num_tokens` tokens, counted without any frame, that shares nothing with any other."""
        return self.prompt(num_tokens + self._text.num_frame_tokens)

    def _new(self, parent: int, follows: int | None, size: int) -> int:
        """A node whose text opens as no other child of its parent does; `follows`: the word behind the parent's."""
        place: tuple[int, tuple[str, ...]] = (0, ())
        for attempt in range(_NUM_PLACES + _NUM_LEADS):
            draws = attempt > 0 or follows is None
            start = self._random.randrange(len(self._text.words)) if draws else follows or 0
            place = (start, self._lead(parent, size, crowded=attempt >= _NUM_PLACES))
            opening = (parent, self._opening(*place, size, opens=parent == _ROOT))
            if opening not in self._openings:
                self._openings.add(opening)
                break
        self._starts.append(place)
        return len(self._starts) - 1

    def _lead(self, parent: int, size: int, *, crowded: bool) -> tuple[str, ...]:
        """Words that tell apart what would be equal: always before a whole text, so that traffic of two seeds shares
        nothing (of 14,000 places in the text, two of a hundred prompts each would often draw the same)."""
        length = 4 if crowded else 2 if parent == _ROOT and size > _OPENING_TOKENS else 0
        if length == 0:
            return ()
        return self._text.lead(self._random.getrandbits(64), min(length, size), opens=parent == _ROOT)

    def _opening(self, start: int, lead: tuple[str, ...], size: int, *, opens: bool) -> str:
        """What tells a block from its siblings: all of a short one, the first whole words of a longer one."""
        if size <= ENGINE_BLOCK_LEN:
            return self._text.passage(start, size, opens=opens, lead=lead)[0]
        return " ".join([*lead, *self._text.words_within(start, _OPENING_TOKENS - len(lead))])

    def _passage(self, node: int, size: int, *, opens: bool) -> tuple[str, int]:
        start, lead = self._starts[node]
        return self._text.passage(start, size, opens=opens, lead=lead)
