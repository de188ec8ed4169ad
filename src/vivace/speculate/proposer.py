"""What guesses tokens."""

from __future__ import annotations

from typing import Protocol

from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult


class Proposer(Protocol):
    @property
    def is_sequential(self) -> bool:
        """Whether each further guess of a sequence takes as long as the first."""
        ...

    @property
    def guesses_chains(self) -> bool:
        """Whether each guess follows the one before: only then can a constraint go along with them."""
        ...

    def available(self, sequence: Sequence, most: int) -> int:
        """How many tokens, `most` at most, could be guessed after the sequence's last one."""
        ...

    def kind(self, sequence: Sequence) -> int:
        """Which kind of guess `available` found: acceptance is learnt for each kind apart."""
        ...

    def begin_step(self, plan: StepPlan) -> None:
        """Called before every step, with guesses or without: blocks move with the plan."""
        ...

    def propose(self, items: list[ScheduledSequence]) -> list[list[int]]:
        """Guesses for each item, `len(item.draft)` at most: what follows its sequence's tokens."""
        ...

    def end_step(self, plan: StepPlan, result: StepResult) -> None:
        """Called after a step, its guesses verified and its plan not yet committed; not after those that rest, but
        after every one before a step with guesses."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        ...
