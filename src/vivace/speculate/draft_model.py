"""A small model of the same vocabulary guesses (Leviathan et al., 2023, "Fast inference from transformers via
speculative decoding").

Its paged KV cache has the target's blocks: the same block tables, the same copies on write. So the scheduler, prefix
sharing and preemption serve both. It lags behind where nothing was guessed and catches up when it is asked. Guesses
are drawn with the request's own sampler settings and random numbers, so that they agree with the target's tokens as
often as the two distributions overlap on one line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vivace.core.sequence import UNKNOWN, Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.ops.backend import AsynchronousBackend, Backend, Drawn, Executable, KVCache, StepInputs
from vivace.runtime.batch import BatchBuilder
from vivace.runtime.runner import StepResult
from vivace.runtime.sampler import SamplerInputs


@dataclass(slots=True)
class _Progress:
    """Of one sequence in the draft's cache: tokens computed, guesses computed behind them, blocks noted."""

    num_computed: int
    guesses: list[int] = field(default_factory=list)
    num_noted: int = 0


class DraftModel:
    """`executable` and `kv_cache` are the draft's, `batch` the target's: its block tables hold for both.

    `max_model_len` and `max_tokens` (of a step) are the draft's limits.
    """

    is_sequential = True
    guesses_chains = True

    def __init__(
        self,
        backend: Backend,
        executable: Executable,
        kv_cache: KVCache,
        batch: BatchBuilder,
        *,
        block_size: int,
        max_model_len: int,
        max_tokens: int,
    ) -> None:
        self._backend = backend
        self._asynchronous = backend if isinstance(backend, AsynchronousBackend) else None
        self._executable = executable
        self._kv_cache = kv_cache
        self._batch = batch
        self._block_size = block_size
        self._max_model_len = max_model_len
        self._max_tokens = max_tokens
        self._sampler_inputs = SamplerInputs(backend.uniforms, constrains=False)
        self._progress: dict[Sequence, _Progress] = {}
        self._content: dict[int, bytes] = {}  # block -> hash of its tokens, where the draft has computed it whole
        self._table_resets: list[Sequence] = []

    def available(self, sequence: Sequence, most: int) -> int:
        return max(0, min(most, self._max_model_len - len(sequence.tokens)))

    def kind(self, sequence: Sequence) -> int:  # noqa: ARG002
        return 0

    def begin_step(self, plan: StepPlan) -> None:
        """Follow the target's blocks."""
        if plan.block_copies:
            self._kv_cache.copy_blocks(plan.block_copies)
            for _, destination in plan.block_copies:
                self._content.pop(destination, None)
        for sequence in (*plan.table_resets, *plan.preempted):
            self._progress.pop(sequence, None)
        self._table_resets = plan.table_resets

    def propose(self, items: list[ScheduledSequence]) -> list[list[int]]:
        wanted = {item.sequence: len(item.draft) for item in items}
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in wanted}
        plan = self._catch_up(list(wanted))
        asking = [item.sequence for item in plan.scheduled if item.samples]
        logits = self._compute(plan)
        if self._asynchronous is not None and not any(one.params.has_penalties for one in wanted):
            self._draw(self._asynchronous, logits, asking, wanted, guesses)
            asking = []
        while asking:
            tokens = self._sample(logits, asking, guesses)
            for sequence, token in zip(asking, tokens, strict=True):
                if token >= 0:
                    guesses[sequence].append(token)
                else:
                    wanted[sequence] = 0  # no finite logit
            asking = [one for one in asking if len(guesses[one]) < wanted[one]]
            if asking:
                logits = self._executable.run(self._next_pass(asking, guesses))
        for sequence, made in guesses.items():
            self._progress[sequence].guesses = made[:-1]  # the last one was not computed
            self._forget_content(sequence, len(sequence.tokens), len(made) - 1)
        return list(guesses.values())

    def end_step(self, plan: StepPlan, result: StepResult) -> None:
        """Nothing: accepted guesses are noticed when it is asked again."""

    def forget(self, sequence: Sequence) -> None:
        self._progress.pop(sequence, None)

    def _catch_up(self, sequences: list[Sequence]) -> StepPlan:
        """Compute the tokens that are known; who has more than a step takes goes on in the next, without a guess."""
        plan = StepPlan(table_resets=self._table_resets)
        for sequence in sequences:
            progress = self._settled(sequence)
            start = progress.num_computed
            num_new = min(len(sequence.tokens) - start, self._max_tokens - plan.num_tokens)
            if num_new > 0:
                progress.num_computed += num_new
                samples = progress.num_computed == len(sequence.tokens)
                plan.scheduled.append(ScheduledSequence(sequence, start, num_new, samples))
                plan.num_tokens += num_new
        return plan

    def _compute(self, plan: StepPlan) -> Any:
        """Logits of those that sample."""
        rows, first = [], 0
        for item in plan.scheduled:
            first += item.num_new
            if item.samples:
                rows.append(first - 1)
            self._forget_content(item.sequence, item.start, item.num_new)
        return self._executable.run(self._batch.build(plan, rows)) if plan else None

    def _next_pass(self, sequences: list[Sequence], guesses: dict[Sequence, list[int]]) -> StepInputs:
        """One more token of each sequence: its last guess. Packed here, for a plan and its rows would take longer
        than a pass of the smallest drafts."""
        size = self._block_size
        positions = [len(one.tokens) + len(guesses[one]) - 1 for one in sequences]
        slots = [
            one.block_ids[position // size] * size + position % size
            for one, position in zip(sequences, positions, strict=True)
        ]
        positions_T, places = np.array(positions, np.int32), np.arange(len(sequences) + 1, dtype=np.int32)
        return StepInputs(
            token_ids_T=np.array([guesses[one][-1] for one in sequences], np.int32),
            positions_T=positions_T,
            slots_T=np.array(slots, np.int32),
            query_starts_B1=places,
            context_lens_B=positions_T + np.int32(1),
            block_tables_BX=self._batch.block_tables([one.row for one in sequences]),
            sampled_rows_S=places[:-1],
        )

    def _draw(
        self,
        backend: AsynchronousBackend,
        logits: Any,
        asking: list[Sequence],
        wanted: dict[Sequence, int],
        guesses: dict[Sequence, list[int]],
    ) -> None:
        """All guesses without a wait between them: each pass takes the last one's tokens on the device. Penalties
        would need them on the host."""
        passes: list[tuple[Drawn, list[Sequence]]] = []
        while asking:
            ahead = [guesses[one] for one in asking]
            drawn = backend.draw(logits, self._sampler_inputs.build(asking, logits.shape[-1], ahead), None)
            passes.append((drawn, asking))
            for sequence in asking:
                guesses[sequence].append(UNKNOWN)
            rows = {sequence: row for row, sequence in enumerate(asking)}
            asking = [one for one in asking if len(guesses[one]) < wanted[one]]
            if asking:
                inputs = self._next_pass(asking, guesses)
                inputs.token_ids_T[:] = 0
                inputs.drawn, inputs.drawn_rows_T = drawn, np.array([rows[one] for one in asking], np.int32)
                logits = self._executable.run(inputs)
        latest_first = reversed([*enumerate(passes)])  # once the last has come, nothing is left to wait for
        for place, (drawn, asked) in latest_first:
            for sequence, token in zip(asked, drawn.read()[0].tolist(), strict=True):
                guesses[sequence][place] = token
        for made in guesses.values():
            if UNKNOWN in made:  # no finite logit there: what follows means nothing
                del made[made.index(UNKNOWN) :]

    def _sample(self, logits: Any, asking: list[Sequence], guesses: dict[Sequence, list[int]]) -> list[int]:
        inputs = self._sampler_inputs.build(asking, logits.shape[-1], [guesses[sequence] for sequence in asking])
        tokens: list[int] = self._backend.sample(logits, inputs).tolist()
        return tokens

    def _forget_content(self, sequence: Sequence, start: int, count: int) -> None:
        """Positions that are written now: their blocks no longer hold what was noted."""
        if count > 0:
            for position in range(start // self._block_size, (start + count - 1) // self._block_size + 1):
                self._content.pop(sequence.block_ids[position], None)

    def _settled(self, sequence: Sequence) -> _Progress:
        """The sequence's progress, with guesses that were accepted counted as computed."""
        progress = self._progress.get(sequence)
        if progress is None:
            progress = self._progress[sequence] = _Progress(self._shared_tokens(sequence))
        tokens = sequence.tokens
        for guess in progress.guesses:  # a constraint may have let fewer of them pass than were computed
            if progress.num_computed == len(tokens) - 1 or tokens[progress.num_computed] != guess:
                break
            progress.num_computed += 1
        progress.guesses = []
        num_full = min(progress.num_computed // self._block_size, len(sequence.block_hashes))
        for position in range(progress.num_noted, num_full):
            self._content[sequence.block_ids[position]] = sequence.block_hashes[position]
        progress.num_noted = max(progress.num_noted, num_full)
        return progress

    def _shared_tokens(self, sequence: Sequence) -> int:
        """Tokens at the beginning that the draft computed in these very blocks, for this or another sequence."""
        position = 0
        for block, block_hash in zip(sequence.block_ids, sequence.block_hashes, strict=False):
            if self._content.get(block) != block_hash:
                break
            position += 1
        return min(position * self._block_size, len(sequence.tokens) - 1)
