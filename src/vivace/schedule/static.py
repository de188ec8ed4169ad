"""Static batching: the policy that users compare with."""

from __future__ import annotations

from collections.abc import Callable

from vivace.core.errors import ConfigError
from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import StepPlan
from vivace.schedule.block_manager import BlockManager
from vivace.schedule.continuous import ContinuousBatching
from vivace.schedule.queue import WaitingQueue


class StaticBatching:
    """Gathers a batch until it has `max_num_seqs` rows or its oldest member has waited `max_wait_s`, then runs
    it until all members are finished before it looks at the queue again.

    Rows of finished members are not computed, but nobody takes their place. Where the KV cache is too small for
    the whole batch, members wait for each other's blocks; nobody else gets them meanwhile.
    `clock` returns seconds and never goes back.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        max_wait_s: float,
        clock: Callable[[], float],
        enable_chunked_prefill: bool = True,
        max_chunk_tokens: int | None = None,
    ) -> None:
        if max_wait_s < 0:
            raise ConfigError(f"max_wait_s must not be negative, got {max_wait_s}")
        self.block_manager = block_manager
        self.max_num_seqs = max_num_seqs
        self.max_wait_s = max_wait_s
        self._clock = clock
        self._batch = ContinuousBatching(
            block_manager,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            enable_chunked_prefill=enable_chunked_prefill,
            max_chunk_tokens=max_chunk_tokens,
        )
        self._waiting = WaitingQueue()
        self._added_at: dict[Sequence, float] = {}  # of those in the queue, oldest first

    @property
    def num_running(self) -> int:
        return self._batch.num_running

    @property
    def num_waiting(self) -> int:
        return self._batch.num_waiting + len(self._waiting)

    @property
    def num_preemptions(self) -> int:
        return self._batch.num_preemptions

    @property
    def has_unfinished(self) -> bool:
        return self._batch.has_unfinished or bool(self._waiting)

    @property
    def idle_s(self) -> float | None:
        """Seconds until `plan` has work although nothing is added: 0 now, None never."""
        if self._batch.has_unfinished:
            return 0.0
        if not self._waiting:
            return None
        if sum(1 + sequence.num_forks for sequence in self._added_at) >= self.max_num_seqs:
            return 0.0
        oldest = next(iter(self._added_at.values()))
        return max(0.0, oldest + self.max_wait_s - self._clock())

    def check(self, sequence: Sequence) -> None:
        """Raise `RequestError` or `ContextLengthError` where the sequence could never run to its end."""
        self._batch.check(sequence)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence for a batch. Raises what `check` raises."""
        self.check(sequence)
        self._waiting.push(sequence)
        self._added_at[sequence] = self._clock()

    def plan(self) -> StepPlan:
        """The batch's next step. Empty while a batch is being gathered."""
        if not self._batch.has_unfinished and self.idle_s == 0.0:
            self._gather()
        return self._batch.plan()

    def commit(self, plan: StepPlan) -> None:
        """The planned tokens are computed: advance the sequences and share the blocks they filled."""
        self._batch.commit(plan)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let the child run on from the parent's computed tokens, and count `parent.num_forks` down."""
        self._batch.fork(parent, child)

    def obstacles(self, sequence: Sequence) -> dict[str, int]:
        """`SequenceHistory.obstacles` so far, of one that waits as well."""
        return {"batch": 1} if sequence in self._waiting else self._batch.obstacles(sequence)

    def finish(self, sequence: Sequence) -> None:
        """The sequence needs nothing more. Its row stays empty until the whole batch is finished."""
        if self._waiting.remove(sequence):
            del self._added_at[sequence]
            sequence.state = SequenceState.FINISHED
        else:
            self._batch.finish(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget the sequence, whether it runs or waits."""
        self.finish(sequence)

    def _gather(self) -> None:
        num_rows = 0
        while (sequence := self._waiting.peek()) is not None:
            num_rows += 1 + sequence.num_forks
            if num_rows > self.max_num_seqs:
                return
            self._waiting.pop()
            del self._added_at[sequence]
            sequence.history.obstacles["batch"] = 1
            self._batch.add(sequence)
