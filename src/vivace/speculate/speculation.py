"""Speculation in the engine's loop: choose how many, propose, verify, learn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import StepPlan
from vivace.runtime.runner import StepResult
from vivace.schedule.drafts import shorten
from vivace.speculate.proposer import Proposer
from vivace.speculate.rule import LengthRule
from vivace.speculate.verification import Accepted, verify

RESTING_STEPS = 24  # plain ones before the rule is asked again: asking takes 0.1 ms, most of a tiny model's step


@dataclass(slots=True)
class SpeculationStats:
    """Counters since the start. A draft is what was guessed for one sequence in one step."""

    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_by_position: list[int] = field(default_factory=list)
    num_choices: Counter[str] = field(default_factory=Counter)  # steps by the rule's kind of choice
    gain: float = 1.0  # the rule's last expectation


class Speculation:
    """Owned by the engine; called around every step. `clock` returns seconds."""

    def __init__(self, proposer: Proposer, rule: LengthRule, clock: Callable[[], float] = time.perf_counter) -> None:
        self._proposer = proposer
        self._rule = rule
        self._clock = clock
        self._began = self._guessed = 0.0
        self._choosing_s = 0.0  # of the last choice: part of what guessing costs
        self._num_resting = 0
        self._num_steps = 1  # since the rule was asked
        self.stats = SpeculationStats(num_accepted_by_position=[0] * rule.most)

    def propose(self, plan: StepPlan) -> None:
        """Fill the plan's room for guesses, and give back what is not needed."""
        self._began = self._clock()
        self._proposer.begin_step(plan)
        items = plan.drafting
        if items:
            guesses = self._proposer.propose(items)
            shorten(plan, [len(made) for made in guesses])
            for item, made in zip(items, guesses, strict=True):
                item.draft[:] = made
        self._guessed = self._clock()

    def verify(self, plan: StepPlan, result: StepResult) -> Accepted:
        """Judge the guesses of the step that has just run; only what stands stays in plan and result.

        What it returns comes out before the plan is committed, for its blocks are named by their tokens.
        """
        ended = self._clock()
        items = plan.drafting
        num_guesses = sum(len(item.draft) for item in items)
        if all(item.samples and item.num_new == 1 + len(item.draft) for item in plan.scheduled):
            guessing_s = self._guessed - self._began + self._choosing_s
            self._rule.observe(plan.num_tokens, num_guesses, ended - self._guessed, guessing_s)
        if not items:
            self._proposer.end_step(plan, result)
            return Accepted([], [], [])
        accepted, counts = verify(plan, result)
        self._proposer.end_step(plan, result)
        for item, count in zip(items, counts, strict=True):
            self._rule.acceptance.observe(item.sequence, len(item.draft), count)
            self._count(len(item.draft), count)
        return accepted

    def choose(self, plan: StepPlan) -> None:
        """After the step's tokens are appended: how many to guess for each sequence in the next one."""
        if self._num_resting > 0:
            self._num_resting -= 1
            return
        began = self._clock()
        going_on = [item.sequence for item in plan.scheduled if item.samples and _speculates(item.sequence)]
        if not going_on:
            return
        available = [self._proposer.available(sequence, self._rule.most) for sequence in going_on]
        choice = self._rule.choose(going_on, available, self._num_steps)
        self._num_steps = 1
        if choice.kind == "plain":
            self._num_resting, self._num_steps = RESTING_STEPS, RESTING_STEPS + 1
        for sequence, length in zip(going_on, choice.lengths, strict=True):
            sequence.num_speculative = length
        self.stats.num_choices[choice.kind] += 1
        self.stats.gain = choice.gain
        if choice.kind == "guess":
            self._choosing_s = self._clock() - began

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._proposer.forget(sequence)
        self._rule.acceptance.forget(sequence)

    def _count(self, num_guessed: int, num_accepted: int) -> None:
        self.stats.num_drafts += 1
        self.stats.num_draft_tokens += num_guessed
        self.stats.num_accepted_tokens += num_accepted
        for position in range(num_accepted):
            self.stats.num_accepted_by_position[position] += 1


def _speculates(sequence: Sequence) -> bool:
    """A constraint's state follows its tokens one by one: those under one run without guesses."""
    return sequence.state is SequenceState.RUNNING and sequence.constraint is None
