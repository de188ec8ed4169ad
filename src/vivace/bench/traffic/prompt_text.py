"""Real text cut to exact numbers of tokens.

A text is kept as words, each with its count of tokens behind a blank. Tokenizers that cut before " word" (every
byte-level vocabulary with a regular expression, every SentencePiece model that splits at blanks) give a run of words
the sum of its words' tokens, so that a prompt of n tokens is a slice found by bisection, and the last few tokens are
words of one token. Where a tokenizer is not like that, `deviation` tells by how much a text misses its length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from vivace.core.errors import ConfigError
from vivace.resources.passages import DOCUMENT_MARK, passages

BUILT_IN = "the package's sample of books and documents"
MAX_FILE_BYTES = 8 << 20  # of a longer file, the beginning: 1.4 million words
MAX_WORD_CHARACTERS = 24  # longer ones (addresses, rules of dashes) take a dozen tokens: a block could not end well
FEWEST_WORDS = 64
_NUM_LOOKED_AT = 32  # words, for one that fits the last few tokens
_ANCHOR = "a"  # counted with and without a word behind it


class TextEncoder(Protocol):
    """Any tokenizer; what it puts around a text (begin of sequence) is counted as part of a prompt."""

    def encode(self, text: str, /) -> Sequence[int]: ...


class PromptText:
    """Text that prompts are cut from, measured with one tokenizer. It keeps no state between prompts."""

    def __init__(self, encoder: TextEncoder, text: str | None = None, *, source: str = BUILT_IN) -> None:
        """`text` None: the sample of the package. Raises `ConfigError` for a text of too few words."""
        self.encoder = encoder
        self.source = source
        self.words = _words(passages() if text is None else text)
        if len(self.words) < FEWEST_WORDS:
            raise ConfigError(f"{source} holds {len(self.words)} words: prompts need at least {FEWEST_WORDS}")
        self.num_frame_tokens = len(encoder.encode(""))
        self._anchor_tokens = len(encoder.encode(_ANCHOR))
        counts = {word: self._count(word) for word in dict.fromkeys(self.words)}
        self._sums = [0, *accumulate(counts[word] for word in self.words)]
        self._fillers = [word for word, count in counts.items() if count == 1 and word.isalpha()]
        self._opening_counts: dict[str, int] = {}

    @classmethod
    def from_file(cls, encoder: TextEncoder, path: str | Path) -> PromptText:
        """Text of the user's. Raises `ConfigError` for a file that is not readable, no UTF-8 or holds too little."""
        path = Path(path).expanduser()
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; give a file of plain text") from None
        try:
            text = data.decode("utf-8", errors="ignore" if len(data) == MAX_FILE_BYTES else "strict")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is no UTF-8 text (byte {error.start})") from None
        return cls(encoder, text, source=str(path))

    def passage(self, start: int, num_tokens: int, *, opens: bool, lead: Sequence[str] = ()) -> tuple[str, int]:
        """`num_tokens` tokens of text from word `start` on, the text's end joined to its beginning, and the word
        behind them. `opens`: the passage opens a text, so that no blank stands before it. `lead`: words of one token
        each that come first."""
        words = list(lead[:num_tokens])
        left = num_tokens - len(words)
        if opens and not words and left > 0:
            word, count = self._opening(start, left)
            words.append(word)
            left -= count
            start = (start + 1) % len(self.words)
        while left > 0:
            end = bisect_right(self._sums, self._sums[start] + left) - 1
            words += self.words[start:end]
            left -= self._sums[end] - self._sums[start]
            if end < len(self.words):
                start = end
                break
            start = 0
        words += self._filling(start, left)
        text = " ".join(words)
        return (text if opens or not text else f" {text}"), start

    def words_within(self, start: int, num_tokens: int) -> list[str]:
        """The whole words from `start` on that `num_tokens` tokens hold: one at least, none behind the text's end."""
        end = bisect_right(self._sums, self._sums[start] + num_tokens) - 1
        return self.words[start : max(end, start + 1)]

    def lead(self, number: int, length: int, *, opens: bool) -> tuple[str, ...]:
        """`length` words of one token each that spell `number`, to tell apart texts that would be equal."""
        letters = self._openers if opens else self._fillers
        words: list[str] = []
        for _ in range(length):
            if not letters:
                break
            number, digit = divmod(number, len(letters))
            words.append(letters[digit])
            letters = self._fillers
        return tuple(words)

    def deviation(self, text: str, num_tokens: int) -> int:
        """How many tokens more than `num_tokens` the tokenizer makes of `text`, with its frame."""
        return len(self.encoder.encode(text)) - num_tokens

    def count_at_start(self, word: str) -> int:
        """Tokens of a word that opens a text, without the frame."""
        count = self._opening_counts.get(word)
        if count is None:
            count = self._opening_counts[word] = len(self.encoder.encode(word)) - self.num_frame_tokens
        return count

    @cached_property
    def _openers(self) -> list[str]:
        """Words of one token at the start of a text: the first of those that serve anywhere, and whatever else."""
        found = [word for word in self._fillers[:2000] if self.count_at_start(word) == 1]
        return found or [letter for letter in map(chr, range(33, 127)) if self.count_at_start(letter) == 1]

    def _count(self, word: str) -> int:
        return len(self.encoder.encode(f"{_ANCHOR} {word}")) - self._anchor_tokens

    def _opening(self, start: int, num_tokens: int) -> tuple[str, int]:
        word = self.words[start]
        count = self.count_at_start(word)
        if count > num_tokens and self._openers:
            word, count = self._openers[start % len(self._openers)], 1
        return word, count

    def _filling(self, start: int, num_tokens: int) -> list[str]:
        """The next words of the text that fit, the others left out; words of one token where those end."""
        words: list[str] = []
        place, last = start, min(start + _NUM_LOOKED_AT, len(self.words))
        while num_tokens > 0 and place < last:
            count = self._sums[place + 1] - self._sums[place]
            if count <= num_tokens:
                words.append(self.words[place])
                num_tokens -= count
            place += 1
        if self._fillers:
            words += [self._fillers[(start + i) % len(self._fillers)] for i in range(num_tokens)]
        return words


def _words(text: str) -> list[str]:
    """What stands between blanks; a line's end belongs to the word before it, and the next word to the same piece."""
    documents = (document.strip() for document in text.split(f"\n{DOCUMENT_MARK}\n"))
    joined = "\n\n".join(document for document in documents if document)
    joined = re.sub(r"[^\S\n]+", " ", joined)
    joined = re.sub(r" ?(\n{1,2})\n* ?", r"\1", joined)
    return [word for word in joined.split(" ") if word and len(word) <= MAX_WORD_CHARACTERS]
