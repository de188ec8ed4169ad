"""A step in flight: it runs on the device while the host prepares the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vivace.core.sequence import UNKNOWN, Sequence, SequenceState
from vivace.core.step import StepPlan
from vivace.runtime.launched import LaunchedStep
from vivace.schedule import BlockManager


@dataclass(slots=True)
class Flight:
    """`ended`: sequences that end with their prompt, without a token."""

    plan: StepPlan
    launched: LaunchedStep
    ended: list[Sequence]

    @contextmanager
    def assumed(self) -> Iterator[None]:
        """Meanwhile an unknown token stands behind each sequence that this step draws one for, but for those that
        end with it: the scheduler then plans what comes after it."""
        going_on = [
            one
            for one in self.launched.sequences
            if one.state is not SequenceState.FINISHED and len(one.tokens) + 1 < one.max_len
        ]
        for sequence in going_on:
            sequence.tokens.append(UNKNOWN)
        try:
            yield
        finally:
            for sequence in going_on:
                sequence.tokens.pop()

    def drop_ended(self) -> bool:
        """Take out of the plan what has ended since it was made. Whether anything is left."""
        plan = self.plan
        left = [item for item in plan.scheduled if item.sequence.state is not SequenceState.FINISHED]
        if len(left) < len(plan.scheduled):
            plan.scheduled = left
            plan.num_tokens = sum(item.num_new for item in left)
        return bool(left)


def goes_on_unread(flight: Flight, manager: BlockManager, num_constrained: int) -> bool:
    """Whether the step after this one can be planned without its tokens: a constraint's mask follows them, and where
    blocks are short a sequence might have to make way for one that has ended. `num_constrained`: unfinished requests
    under a constraint, whether or not they are in this step."""
    if num_constrained and any(one.constraint is not None for one in flight.launched.sequences):
        return False
    return _finds_room(manager, flight)


def _finds_room(manager: BlockManager, flight: Flight) -> bool:
    """Whether everyone in flight can grow by a token with nobody making way."""
    growing = flight.launched.sequences
    available = manager.num_available
    return available >= len(growing) or available >= sum(not manager.has_room(one, 1) for one in growing)
