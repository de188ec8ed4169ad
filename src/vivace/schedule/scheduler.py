"""What the engine asks of a scheduling policy."""

from __future__ import annotations

from typing import Protocol

from vivace.core.sequence import Sequence
from vivace.core.step import StepPlan
from vivace.schedule.block_manager import BlockManager


class Scheduler(Protocol):
    """Who runs in the next step, and on which KV blocks.

    The engine's loop: `add` at any time between steps; `plan()`, run it, `commit(plan)`; then for each scheduled
    sequence that `samples`: append the sampled token, make `sequence.num_forks` children with `fork` (each has
    the prompt's tokens and its own first token), and `finish` those that are done.
    """

    @property
    def block_manager(self) -> BlockManager: ...

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def num_preemptions(self) -> int: ...

    @property
    def has_unfinished(self) -> bool: ...

    @property
    def idle_s(self) -> float | None:
        """Seconds until `plan` has work although nothing is added: 0 now, None never."""
        ...

    def check(self, sequence: Sequence) -> None:
        """Raise `RequestError` or `ContextLengthError` where the sequence could never run to its end."""
        ...

    def add(self, sequence: Sequence) -> None: ...

    def plan(self) -> StepPlan: ...

    def commit(self, plan: StepPlan) -> None: ...

    def obstacles(self, sequence: Sequence) -> dict[str, int]:
        """`SequenceHistory.obstacles` so far, of one that waits as well."""
        ...

    def fork(self, parent: Sequence, child: Sequence) -> None: ...

    def finish(self, sequence: Sequence) -> None: ...

    def abort(self, sequence: Sequence) -> None: ...
