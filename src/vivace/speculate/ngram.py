"""Prompt lookup: what followed the last time that these tokens stood together (Saxena, 2023, "Prompt lookup
decoding"; Yang et al., 2023, "Inference with reference").

The index is that of LZ77 compressors: positions of equal runs of `min_match` tokens in a chain, the newest first. It
grows with the text; a token costs one dictionary access, a look-up at most MAX_CANDIDATES comparisons.
"""

from __future__ import annotations

from array import array

from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult

MAX_CANDIDATES = 16
LONGEST_MATCH = 32  # tokens: a longer common past says nothing more about what follows


class TokenIndex:
    """Where every run of `min_match` tokens of one growing text begins last, and the run before it."""

    def __init__(self, min_match: int) -> None:
        self.min_match = min_match
        self._newest: dict[bytes, int] = {}  # bytes of a run -> its newest end
        self._older: list[int] = []  # by end: the end of the same run before, or -1
        self._num_indexed = 0

    def extend(self, sequence: Sequence) -> None:
        """Take in the tokens that are new. A text that got shorter (it never does) would be indexed wrongly."""
        tokens, size = sequence.tokens, self.min_match
        first = max(self._num_indexed + 1, size)  # the first run's end
        newest, older, item = self._newest, self._older, tokens.itemsize
        older.extend([-1] * (min(first - 1, len(tokens)) - self._num_indexed))
        data, width = tokens[first - size :].tobytes(), size * item
        for end, begin in enumerate(range(0, len(data) - width + 1, item), first):
            run = data[begin : begin + width]
            older.append(newest.get(run, -1))
            newest[run] = end
        self._num_indexed = len(tokens)

    def continuation(self, sequence: Sequence, most: int) -> tuple[list[int], int]:
        """What followed the earlier occurrence with the longest common past, the newest among equals, if any; and
        the length of that past."""
        tokens = sequence.tokens
        end = self._older[-1] if self._older else -1
        best, best_match = -1, 0
        past = tokens[-LONGEST_MATCH:]
        for _ in range(MAX_CANDIDATES):
            if end < 0:
                break
            is_long = end >= LONGEST_MATCH and tokens[end - LONGEST_MATCH : end] == past
            match = LONGEST_MATCH if is_long else self._match(tokens, end)
            if match > best_match:
                best, best_match = end, match
            if match >= LONGEST_MATCH:
                break
            end = self._older[end - 1]
        return ([], 0) if best < 0 else (self._following(tokens, best, most), best_match)

    def _match(self, tokens: array[int], end: int) -> int:
        """How many tokens before `end` equal those at the text's end."""
        match, last = self.min_match, len(tokens)
        while match < min(end, LONGEST_MATCH) and tokens[end - match - 1] == tokens[last - match - 1]:
            match += 1
        return match

    @staticmethod
    def _following(tokens: array[int], end: int, most: int) -> list[int]:
        """Tokens after `end`; where the text ends first, it goes on as it repeats itself from there."""
        period = len(tokens) - end
        if period >= most:
            return tokens[end : end + most].tolist()
        return [tokens[end + number % period] for number in range(most)]


class NgramProposer:
    """Guesses from the sequence's own prompt and output. No model, no memory beside the index.

    The longer the common past, the likelier the guess: kinds double its length (2 to 3 tokens, 4 to 7, ...).
    """

    is_sequential = False
    guesses_chains = True

    def __init__(self, min_match: int) -> None:
        self.min_match = min_match
        self._indexes: dict[Sequence, TokenIndex] = {}
        self._guesses: dict[Sequence, list[int]] = {}
        self._kinds: dict[Sequence, int] = {}

    def available(self, sequence: Sequence, most: int) -> int:
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = TokenIndex(self.min_match)
        index.extend(sequence)
        guesses, match = index.continuation(sequence, most)
        self._guesses[sequence] = guesses
        self._kinds[sequence] = match.bit_length()
        return len(guesses)

    def kind(self, sequence: Sequence) -> int:
        return self._kinds.get(sequence, 0)

    def begin_step(self, plan: StepPlan) -> None:
        """Nothing: the index knows texts, not blocks."""

    def propose(self, items: list[ScheduledSequence]) -> list[list[int]]:
        return [self._guesses.get(item.sequence, [])[: len(item.draft)] for item in items]

    def end_step(self, plan: StepPlan, result: StepResult) -> None:
        """Nothing: the index follows texts alone."""

    def forget(self, sequence: Sequence) -> None:
        self._indexes.pop(sequence, None)
        self._guesses.pop(sequence, None)
        self._kinds.pop(sequence, None)
