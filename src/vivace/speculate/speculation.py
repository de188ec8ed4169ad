"""Speculation in the engine's loop: choose how many, propose, verify, learn."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult
from vivace.schedule.drafts import shorten
from vivace.speculate.proposer import Proposer
from vivace.speculate.rule import Choice, Kind, LengthRule, StepReport
from vivace.speculate.verdict import INTERVAL_S, Verdict
from vivace.speculate.verification import Accepted, verify

NOTHING = Accepted([], [], [])
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class SpeculationStats:
    """Counters since the start. A draft is what was guessed for one sequence in one step."""

    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_by_position: list[int] = field(default_factory=list)
    num_choices: Counter[str] = field(default_factory=Counter)  # steps by the rule's kind of choice
    gain: float = 1.0  # the rule's last expectation
    verdict: str = ""  # what it chose of late, and why, in a sentence


@dataclass(slots=True)
class _Cycle:
    """One step from its proposal to the next one's, as far as it is known. Seconds."""

    began: float
    guessing_s: float = 0.0
    asking_s: float = 0.0
    waited_s: float = 0.0  # for the device
    num_sequences: int = 0  # 0: not of decode rows alone, or nothing goes on after it
    num_tokens: int = 0
    lengths: list[int] = field(default_factory=list)
    kind: Kind = "none"


class Speculation:
    """Owned by the engine; called around every step. `clock` returns seconds.

    `overlaps`: whether the host prepares the next step while one that rests runs. A step that is looked at cannot be
    overlapped, so what the host would have hidden is a price of asking: where nothing comes of it, steps rest.
    """

    def __init__(self, proposer: Proposer, rule: LengthRule, clock: Callable[[], float] = time.perf_counter) -> None:
        self.proposer = proposer
        self.rule = rule
        self.overlaps = False
        self._clock = clock
        self._cycle = _Cycle(clock())
        self._kind: Kind = "none"  # of the last choice
        self._num_resting = 0  # steps until the rule is asked again; the last of them is measured
        self._was_guessing = False  # in the step before this one
        self._guessing: list[Sequence] = []  # who is to guess in the next step
        self._verdict = Verdict()
        self._verdict.due = self._cycle.began + INTERVAL_S
        self.stats = SpeculationStats(num_accepted_by_position=[0] * rule.most)

    @property
    def is_resting(self) -> bool:
        """Whether the next step will rest, whatever its plan: it has no guesses, and nobody looks at its tokens."""
        return self._num_resting > 1

    def rests(self, plan: StepPlan) -> bool:
        """Whether this step is not looked at: a step that rests costs half a microsecond."""
        if not self.is_resting:
            return False
        self._num_resting -= 1
        if self._cycle.num_sequences:
            self._report(self._clock())
            self._cycle.num_sequences = 0
        if plan.table_resets or plan.preempted or plan.block_copies:
            self.proposer.begin_step(plan)
        return True

    def propose(self, plan: StepPlan) -> None:
        """Fill the plan's room for guesses, and give back what is not needed."""
        began = self._clock()
        self._report(began)
        if began >= self._verdict.due:
            self._look(began)
        self._cycle = cycle = _Cycle(began, kind=self._kind)
        self.proposer.begin_step(plan)
        items = plan.drafting
        if items:
            guesses = [
                _allowed(item.sequence, made) for item, made in zip(items, self.proposer.propose(items), strict=True)
            ]
            shorten(plan, [len(made) for made in guesses])
            for item, made in zip(items, guesses, strict=True):
                item.draft[:] = made
            cycle.lengths = [len(made) for made in guesses if made]
            cycle.guessing_s = self._clock() - began
        else:
            cycle.asking_s = self._clock() - began

    def verify(self, plan: StepPlan, result: StepResult) -> Accepted:
        """Judge the guesses of the step that has just run; only what stands stays in plan and result.

        What it returns comes out before the plan is committed, for its blocks are named by their tokens.
        """
        cycle = self._cycle
        cycle.waited_s = result.waited_s
        if plan.num_tokens == len(plan.scheduled) + sum(cycle.lengths) and all(map(_decodes, plan.scheduled)):
            cycle.num_sequences = cycle.num_tokens = len(plan.scheduled)
        items = plan.drafting
        if not items:
            self.proposer.end_step(plan, result)
            return NOTHING
        accepted, counts = verify(plan, result)
        self.proposer.end_step(plan, result)
        cycle.num_tokens += sum(counts)
        observe, kind_of = self.rule.acceptance.observe, self.proposer.kind
        for item, count in zip(items, counts, strict=True):
            observe(item.sequence, len(item.draft), count, kind_of(item.sequence))
            item.sequence.history.num_guessed += len(item.draft)
            item.sequence.history.num_accepted += count
            self._count(len(item.draft), count)
        return accepted

    def choose(self, plan: StepPlan) -> None:
        """After the step's tokens are appended: how many to guess for each sequence in the next one."""
        for sequence in self._guessing:
            sequence.num_speculative = 0
        self._guessing = []
        if not any(item.sequence.state is SequenceState.RUNNING for item in plan.scheduled):
            self._cycle.num_sequences = 0  # what comes next may have to be waited for
        if self._num_resting > 1:
            self._num_resting -= 1
            return
        self._num_resting = self.rule.steps_to_rest(len(plan.scheduled))
        if self._num_resting:
            self._kind = "rest"
            self.stats.num_choices["rest"] += self._num_resting
            return
        began = self._clock()
        going_on = [item.sequence for item in plan.scheduled if item.samples and self._speculates(item.sequence)]
        if not going_on:
            self._note("none")
            return
        choice = self._asked(going_on)
        for sequence, length in zip(going_on, choice.lengths, strict=True):
            if length:
                sequence.num_speculative = length
                self._guessing.append(sequence)
        self._note(choice.kind)
        self.stats.gain = choice.gain
        self._cycle.asking_s += self._clock() - began

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self.proposer.forget(sequence)
        self.rule.acceptance.forget(sequence)

    def _speculates(self, sequence: Sequence) -> bool:
        return sequence.state is SequenceState.RUNNING and (
            sequence.constraint is None or self.proposer.guesses_chains
        )

    def _asked(self, sequences: list[Sequence]) -> Choice:
        most, proposer = self.rule.most, self.proposer
        available = [proposer.available(sequence, most) for sequence in sequences]
        return self.rule.choose(sequences, available, list(map(proposer.kind, sequences)))

    def _note(self, kind: Kind) -> None:
        self._kind = kind
        self.stats.num_choices[kind] += 1

    def _look(self, now: float) -> None:
        stats = self.stats
        self._verdict.look(now, stats.num_choices, stats.gain, self.rule, self._cycle.num_sequences)
        if self._verdict.text != stats.verdict:
            stats.verdict = self._verdict.text
            logger.info("%s", stats.verdict)

    def _report(self, ended: float) -> None:
        """Tell the rule of the step that ends where the next one begins."""
        cycle = self._cycle
        is_steady = self._was_guessing == bool(cycle.lengths)
        self._was_guessing = bool(cycle.lengths)
        if not cycle.num_sequences:
            return
        target_s = ended - cycle.began - cycle.guessing_s - cycle.asking_s
        hidden_s = max(0.0, min(cycle.waited_s, target_s - cycle.waited_s)) if self.overlaps else 0.0
        self.rule.observe(
            StepReport(
                cycle.num_sequences,
                cycle.lengths,
                cycle.num_tokens,
                target_s - hidden_s,
                cycle.guessing_s,
                cycle.asking_s + hidden_s,
                is_steady,
                cycle.kind == "trial",
            )
        )

    def _count(self, num_guessed: int, num_accepted: int) -> None:
        stats = self.stats
        stats.num_drafts += 1
        stats.num_draft_tokens += num_guessed
        stats.num_accepted_tokens += num_accepted
        for position in range(num_accepted):
            stats.num_accepted_by_position[position] += 1


def _decodes(item: ScheduledSequence) -> bool:
    return item.samples and item.num_new == 1 + len(item.draft)


def _allowed(sequence: Sequence, guesses: list[int]) -> list[int]:
    """The first of the guesses, as far as the sequence's constraint allows them and goes on behind them."""
    if sequence.constraint is None:
        return guesses
    return guesses[: sequence.constraint.look_ahead(guesses)]
