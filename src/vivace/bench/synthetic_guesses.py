"""Guesses that stand as often as one says: what a draft of that quality would bring, before there is one.

Verification is exact, so that the text of a request is known from a run without guesses. A guess is the known token
with the chance that one says, otherwise another. Random weights serve as well as trained ones.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from random import Random

from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult


class SyntheticGuesses:
    """`answers[int(request_id)]` are the tokens that come out. At most `depth` are guessed; making them is free."""

    is_sequential = False
    guesses_chains = True

    def __init__(self, rate: float, vocab_size: int, seed: int, depth: int) -> None:
        self.answers: Items[Items[int]] = ()
        self.depth = depth
        self._rate = rate
        self._vocab_size = vocab_size
        self._random = Random(seed)

    def available(self, sequence: Sequence, most: int) -> int:
        left = len(self.answers[int(sequence.request_id)]) - sequence.num_output
        return max(0, min(most, self.depth, left))

    def kind(self, sequence: Sequence) -> int:  # noqa: ARG002 -- all alike
        return 0

    def begin_step(self, plan: StepPlan) -> None:
        """Nothing: answers are known."""

    def propose(self, items: list[ScheduledSequence]) -> list[list[int]]:
        return [self._guesses(item.sequence, len(item.draft)) for item in items]

    def end_step(self, plan: StepPlan, result: StepResult) -> None:
        """Nothing."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept."""

    def _guesses(self, sequence: Sequence, count: int) -> list[int]:
        first = sequence.num_output
        known = self.answers[int(sequence.request_id)][first : first + count]
        return [token if self._random.random() < self._rate else (token + 1) % self._vocab_size for token in known]
