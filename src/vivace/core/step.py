"""What the scheduler asks the runtime to do in one step, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

from vivace.core.draft_tree import DraftTree
from vivace.core.sequence import Sequence


@dataclass(slots=True)
class ScheduledSequence:
    """`num_new` tokens of `sequence`, starting at position `start`, are computed in this step.

    `samples` is true when the step reaches the last known token, so that its logits give the next one.
    `forks` are further continuations of a computed prompt: each draws its own first token from the same row.
    The last `len(draft)` of the new tokens are guesses: they are no part of the sequence until they are verified.
    They follow each other, or as `tree` says; each has a slot of its own either way.
    """

    sequence: Sequence
    start: int
    num_new: int
    samples: bool
    forks: list[Sequence] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    tree: DraftTree | None = None


@dataclass(slots=True)
class StepPlan:
    """One step: rows of the batch in order, and the block copies that must happen before it."""

    scheduled: list[ScheduledSequence] = field(default_factory=list)
    block_copies: list[tuple[int, int]] = field(default_factory=list)  # (source block, destination block)
    table_resets: list[Sequence] = field(default_factory=list)  # block tables to copy anew; others only grew
    preempted: list[Sequence] = field(default_factory=list)
    num_tokens: int = 0
    num_chunks: int = 0  # of `scheduled`, those that compute tokens of a prompt; the engine counts them

    @property
    def drafting(self) -> list[ScheduledSequence]:
        """Those with guesses to verify."""
        return [item for item in self.scheduled if item.draft]

    def __bool__(self) -> bool:
        return bool(self.scheduled)
