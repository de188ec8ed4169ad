"""Continuous batching without phases: every step hands a token budget to whoever has tokens pending."""

from __future__ import annotations

from collections import Counter

from vivace.core.errors import ConfigError, ContextLengthError, EngineError, RequestError
from vivace.core.history import Preemption
from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.schedule.block_manager import BlockManager
from vivace.schedule.drafts import plan_drafts
from vivace.schedule.queue import WaitingQueue


class ContinuousBatching:
    """Plans steps of at most `max_num_batched_tokens` tokens over at most `max_num_seqs` sequences.

    A step serves, in this order: running sequences with one token pending; running sequences with more (prompts
    in chunks), in order of admission; waiting sequences, in the order of the queue, while rows, blocks and budget
    last; then guesses to verify, with what budget and blocks are left. When blocks run out, the running sequence that
    comes last by (priority, arrival) loses its blocks and waits to be computed again. The first one by that order is
    never preempted and always advances, therefore everyone finishes.

    Protocol with the engine: `add`; then, step by step, `plan`, run it, `commit`; append the sampled tokens and
    call `fork`, `finish` or `abort` before the next `plan`.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        enable_chunked_prefill: bool = True,
        max_chunk_tokens: int | None = None,
    ) -> None:
        if max_num_seqs < 1:
            raise ConfigError(f"max_num_seqs must be at least 1, got {max_num_seqs}")
        if max_num_batched_tokens < max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({max_num_batched_tokens}) must be at least max_num_seqs ({max_num_seqs}): "
                "every running sequence needs one token a step"
            )
        if max_chunk_tokens is not None and max_chunk_tokens < 1:
            raise ConfigError(f"max_chunk_tokens must be at least 1, got {max_chunk_tokens}")
        self.block_manager = block_manager
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.enable_chunked_prefill = enable_chunked_prefill
        self.num_preemptions = 0
        self._chunk_tokens = max_num_batched_tokens
        if enable_chunked_prefill and max_chunk_tokens is not None:
            self._chunk_tokens = min(max_chunk_tokens, max_num_batched_tokens)
        # A few free blocks when others are let in, so that the newcomer is not the first victim of their growth.
        self._num_reserved = max(1, block_manager.num_blocks // 100)
        self._waiting = WaitingQueue()
        self._parked: set[Sequence] = set()  # waiting for a prefix that a running sequence computes
        self._running: dict[Sequence, None] = {}  # in order of admission
        self._rows = list(range(max_num_seqs - 1, -1, -1))
        self._forked: list[Sequence] = []  # since the last plan
        self._obstacles: Counter[str] = Counter()  # plans that left the first in the queue there, by what was short
        self._refused: tuple[Sequence, int] | None = None  # who found no room, and how many blocks there were

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._parked)

    @property
    def has_unfinished(self) -> bool:
        return bool(self._running or self._waiting or self._parked)

    @property
    def idle_s(self) -> float | None:
        """Seconds until `plan` has work although nothing is added: 0 now, None never."""
        return 0.0 if self.has_unfinished else None

    def check(self, sequence: Sequence) -> None:
        """Raise `RequestError` or `ContextLengthError` where the sequence could never run to its end."""
        num_prompt, manager = sequence.num_prompt, self.block_manager
        if num_prompt < 1:
            raise RequestError("the prompt has no tokens", param="prompt")
        if num_prompt > self.max_model_len:
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens, the context window {self.max_model_len}", param="prompt"
            )
        if 1 + sequence.num_forks > self.max_num_seqs:
            raise RequestError(
                f"n = {1 + sequence.num_forks} is more than max_num_seqs = {self.max_num_seqs}", param="n"
            )
        longest = self._longest(sequence)
        capacity = manager.num_blocks * manager.block_size
        if longest > capacity:
            raise ContextLengthError(
                f"the request can reach {longest} tokens (prompt {num_prompt}), but the KV cache holds {capacity}: "
                "shorten the prompt, lower max_tokens or give the KV cache more memory",
                param="max_tokens" if num_prompt <= capacity else "prompt",
            )
        if not self.enable_chunked_prefill and num_prompt > self.max_num_batched_tokens:
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens; without chunked prefill at most "
                f"max_num_batched_tokens = {self.max_num_batched_tokens} are possible",
                param="prompt",
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises what `check` raises."""
        self.check(sequence)
        sequence.history.obstacles_before = dict(self._obstacles)
        self._waiting.push(sequence)

    def plan(self) -> StepPlan:
        """The next step. Empty where nothing is left to compute."""
        self._wake()
        plan = StepPlan()
        if self._forked:
            plan.table_resets = [sequence for sequence in self._forked if sequence.row >= 0]
            self._forked = []
        chunked = self._plan_single_tokens(plan)
        if chunked:
            self._plan_chunks(plan, chunked)
        if self._waiting:
            if self._rows and not plan.preempted:
                self._plan_waiting(plan)
            else:
                self._obstacles["blocks" if plan.preempted else "rows"] += 1
        plan_drafts(plan, self.block_manager, self.max_num_batched_tokens)
        return plan

    def commit(self, plan: StepPlan) -> None:
        """The planned tokens are computed: advance the sequences and share the blocks they filled."""
        block_size = self.block_manager.block_size
        for scheduled in plan.scheduled:
            sequence = scheduled.sequence
            if sequence.row < 0:  # finished or aborted while the step ran
                continue
            computed = scheduled.start + scheduled.num_new
            sequence.num_computed = computed
            if computed >= (sequence.num_registered + 1) * block_size:
                self.block_manager.commit(sequence)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let the child run on from the parent's computed tokens, and count `parent.num_forks` down.

        To be called when all tokens of the prompt are computed and before the next `plan`. The child's tokens
        are those of the prompt and its own first sampled token.
        """
        if parent not in self._running or parent.num_forks < 1:
            raise EngineError(f"request {parent.request_id!r} has no fork to make")
        self.block_manager.fork(parent, child)
        parent.num_forks -= 1
        self._start(child)
        self._forked.append(child)

    def finish(self, sequence: Sequence) -> None:
        """The sequence needs nothing more: its row and blocks are free at once. Harmless when repeated."""
        if sequence in self._running:
            self._stop(sequence)
        elif sequence in self._parked:
            self._parked.remove(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.state = SequenceState.FINISHED

    def abort(self, sequence: Sequence) -> None:
        """Forget the sequence, whether it runs or waits. Those who waited for its prefix go on by themselves."""
        self.finish(sequence)

    def _longest(self, sequence: Sequence) -> int:
        """The most tokens whose keys and values are ever in the cache: a last sampled token is never computed."""
        max_tokens = sequence.params.max_tokens
        longest = self.max_model_len if max_tokens is None else sequence.num_prompt + max_tokens - 1
        return max(sequence.num_prompt, min(longest, self.max_model_len - 1))

    def _wake(self) -> None:
        for sequence in self.block_manager.take_woken():
            if sequence in self._parked:
                self._parked.remove(sequence)
                self._waiting.push(sequence)

    def _plan_single_tokens(self, plan: StepPlan) -> list[Sequence]:
        """Schedule the running sequences with one pending token; return those with more.

        The hot loop of decoding. All rows fit the budget because it is at least `max_num_seqs`.
        """
        chunked: list[Sequence] = []
        has_room = self.block_manager.has_room
        append = plan.scheduled.append
        for sequence in tuple(self._running):
            start = sequence.num_computed
            num_new = len(sequence.tokens) - start
            if num_new != 1:
                chunked.append(sequence)
            elif sequence.row >= 0 and (has_room(sequence, 1) or self._make_room(plan, sequence, 1)):
                append(ScheduledSequence(sequence, start, 1, True))
                plan.num_tokens += 1
        return chunked

    def _plan_chunks(self, plan: StepPlan, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            budget = self.max_num_batched_tokens - plan.num_tokens
            if budget < 1:
                return
            num_new = min(sequence.num_pending, budget, self._chunk_tokens)
            if sequence.row < 0 or num_new < 1:  # preempted just now, or nothing is known to compute
                continue
            if self.block_manager.has_room(sequence, num_new) or self._make_room(plan, sequence, num_new):
                self._schedule(plan, sequence, num_new)

    def _plan_waiting(self, plan: StepPlan) -> None:
        manager = self.block_manager
        num_promised = sum(sequence.num_forks for sequence in self._running)
        while (sequence := self._waiting.peek()) is not None:
            budget = self.max_num_batched_tokens - plan.num_tokens
            obstacle = self._obstacle(sequence, budget, num_promised)
            if obstacle is not None:
                self._obstacles[obstacle] += 1
                return
            match = manager.match(sequence)
            if match.awaited is not None:
                match.awaited.waiters.append(self._waiting.pop())
                self._parked.add(sequence)
                sequence.history.num_prefix_waits += 1
                continue
            num_pending = len(sequence.tokens) - len(match.blocks) * manager.block_size
            num_new = min(num_pending, budget, self._chunk_tokens)
            if num_new < num_pending and not self._may_split(num_pending, budget):
                self._obstacles["tokens"] += 1
                return
            if not manager.can_admit(sequence, match, self._num_reserved if self._running else 0):
                self._refused = (sequence, manager.num_available)
                self._obstacles["blocks"] += 1
                return
            self._waiting.pop()
            manager.admit(sequence, match)
            self._note_wait(sequence)
            self._start(sequence)
            num_promised += sequence.num_forks
            plan.table_resets.append(sequence)
            self._schedule(plan, sequence, num_new)

    def _obstacle(self, sequence: Sequence, budget: int, num_promised: int) -> str | None:
        """What the first in the queue lacks, as far as that is seen without a look at its prefix."""
        if budget < 1:
            return "tokens"
        if len(self._rows) - num_promised < 1 + sequence.num_forks:
            return "rows"
        return "blocks" if self._is_refused(sequence) else None

    def obstacles(self, sequence: Sequence) -> dict[str, int]:
        """`SequenceHistory.obstacles` so far, of one that waits as well."""
        before = sequence.history.obstacles_before
        if before is None:
            return sequence.history.obstacles
        return dict(self._obstacles - Counter(before))

    def _note_wait(self, sequence: Sequence) -> None:
        history = sequence.history
        if history.obstacles_before is not None:
            history.obstacles |= self.obstacles(sequence)
            history.obstacles_before = None

    def _is_refused(self, sequence: Sequence) -> bool:
        """Whether looking again is pointless: it found no room before, and no block has come free since then.
        Spares a blocked prompt of 32,000 tokens 2 ms of prefix look-up in every step."""
        if self._refused is None:
            return False
        refused, num_available = self._refused
        return refused is sequence and self.block_manager.num_available <= num_available

    def _may_split(self, num_pending: int, budget: int) -> bool:
        """Without chunked prefill only a preempted sequence that outgrew a whole step is computed in pieces."""
        return self.enable_chunked_prefill or (
            num_pending > self.max_num_batched_tokens and budget == self.max_num_batched_tokens
        )

    def _schedule(self, plan: StepPlan, sequence: Sequence, num_new: int) -> None:
        start = sequence.num_computed
        samples = start + num_new == len(sequence.tokens)
        plan.scheduled.append(ScheduledSequence(sequence, start, num_new, samples))
        plan.num_tokens += num_new

    def _make_room(self, plan: StepPlan, sequence: Sequence, num_new: int) -> bool:
        """Grow the sequence, preempting others where needed. False where it was itself the one to go."""
        while not self.block_manager.can_grow(sequence, num_new):
            if len(self._running) == 1:
                raise EngineError(f"request {sequence.request_id!r} has grown beyond what was checked when it came")
            victim = max(self._running, key=_rank)
            lost = Preemption(victim.num_output, victim.num_computed, victim is sequence)
            victim.history.note_preemption(lost)
            self._preempt(plan, victim)
            if victim is sequence:
                return False
        copy = self.block_manager.grow(sequence, num_new)
        if copy is not None:
            plan.block_copies.append(copy)
            plan.table_resets.append(sequence)
        return True

    def _preempt(self, plan: StepPlan, victim: Sequence) -> None:
        """Take the victim's blocks and whatever this plan holds of it; it keeps its place in the order."""
        for position, scheduled in enumerate(plan.scheduled):
            if scheduled.sequence is victim:
                plan.num_tokens -= scheduled.num_new
                del plan.scheduled[position]
                break
        owned = set(victim.block_ids)
        plan.block_copies = [copy for copy in plan.block_copies if copy[1] not in owned]
        plan.table_resets = [sequence for sequence in plan.table_resets if sequence is not victim]
        plan.preempted.append(victim)
        self.num_preemptions += 1
        victim.num_preemptions += 1
        self._stop(victim)
        victim.state = SequenceState.WAITING
        self._waiting.push(victim)

    def _start(self, sequence: Sequence) -> None:
        sequence.row = self._rows.pop()
        sequence.state = SequenceState.RUNNING
        self._running[sequence] = None

    def _stop(self, sequence: Sequence) -> None:
        del self._running[sequence]
        self.block_manager.release(sequence)
        self._rows.append(sequence.row)
        sequence.row = -1


def _rank(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.priority, sequence.arrival, sequence.index
