"""One step on the device: copy blocks, pack the batch, replay the program, sample."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vivace.core.events import TokenLogprobs
from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.ops.backend import (
    AsynchronousBackend,
    Backend,
    Executable,
    Float32Array,
    Int32Array,
    KVCache,
    TopLogprobs,
)
from vivace.runtime.batch import BatchBuilder
from vivace.runtime.launched import LaunchedStep
from vivace.runtime.pooling import HiddenRows, PoolingRunner, split_pooling
from vivace.runtime.sampler import SamplerInputs


@dataclass(slots=True)
class PromptLogprobs:
    """Log probabilities of prompt tokens `start`, `start + 1`, ... of `sequence`."""

    sequence: Sequence
    start: int
    logprobs: list[TokenLogprobs]


@dataclass(slots=True)
class LogitsRows:
    """Raw logits [S, V] of `sequence` from position `start`, whose row predicts token `start + 1`.

    A view, valid until the next step.
    """

    sequence: Sequence
    start: int
    rows_SV: Float32Array


@dataclass(slots=True)
class StepResult:
    """The next token of each sequence (-1: its logits were not finite); a row that forks yields one for each, a row
    with guesses one after its known tokens and one after each guess.

    Parallel lists: an object a token would cost 0.1 ms a step at 256 sequences. `logprobs` is None when nobody asked.
    `states` are the hidden states [S, D] of the sampled rows where the program names some (a view, valid until the
    next step), `rows` those rows of it that belong to `sequences`: all of them until guesses are verified. `paths`:
    the guesses that stand, of each item of the plan that has guesses, once they are verified. `waited_s`: seconds in
    which the host waited for the tokens.
    """

    sequences: list[Sequence]
    tokens: list[int]
    logprobs: list[TokenLogprobs | None] | None
    prompt_logprobs: list[PromptLogprobs]
    hidden: list[HiddenRows] = field(default_factory=list)
    logits: list[LogitsRows] = field(default_factory=list)
    states: Any = None
    rows: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    waited_s: float = 0.0

    def of_unfinished(self) -> StepResult:
        """Without what belongs to sequences that are finished. Of a step without guesses."""
        kept = [row for row, one in enumerate(self.sequences) if _goes_on(one)]
        if len(kept) < len(self.sequences):
            self.sequences = [self.sequences[row] for row in kept]
            self.tokens = [self.tokens[row] for row in kept]
            self.logprobs = None if self.logprobs is None else [self.logprobs[row] for row in kept]
        self.prompt_logprobs = [one for one in self.prompt_logprobs if _goes_on(one.sequence)]
        self.hidden = [one for one in self.hidden if _goes_on(one.sequence)]
        self.logits = [one for one in self.logits if _goes_on(one.sequence)]
        return self


class Judge(Protocol):
    """Decides where another token than the sampled one comes out, so that a guess stands."""

    def __call__(self, plan: StepPlan, logits: Any, token_S: Int32Array) -> None:
        """Change `token_S`, the sampled token of each row of `logits`, in place."""
        ...


class _SampledRows:
    """Rows of the step whose logits are wanted: those that sample, then scored prompt rows, then raw ones."""

    def __init__(self, plan: StepPlan) -> None:
        self.rows: list[int] = []
        self.sequences: list[Sequence] = []
        self.ahead = _tokens_ahead(plan)
        self.scored: list[ScheduledSequence] = []
        self.targets: list[int] = []
        self.raw: list[tuple[Sequence, int, int]] = []  # sequence, first position, rows
        score_rows: list[int] = []
        raw_rows: list[int] = []
        first = 0
        for item in plan.scheduled:
            if item.samples:
                last = first + item.num_new - 1
                self.rows.extend(range(last - len(item.draft), last + 1))
                self.sequences.extend([item.sequence] * (1 + len(item.draft)))
                for fork in item.forks:
                    self.rows.append(last)
                    self.sequences.append(fork)
            if item.start < item.sequence.num_prompt and (count := _num_scored(item)) > 0:
                if item.sequence.params.prompt_logprobs is not None:
                    self.scored.append(item)
                    score_rows.extend(range(first, first + count))
                    self.targets.extend(item.sequence.tokens[item.start + 1 : item.start + 1 + count])
                if item.sequence.logits_from is not None:
                    skipped = max(0, item.sequence.logits_from - item.start)
                    raw_rows.extend(range(first + skipped, first + count))
                    self.raw.append((item.sequence, item.start + skipped, count - skipped))
            first += item.num_new
        self.rows.extend(score_rows)
        self.rows.extend(raw_rows)


class Runner:
    """Runs plans through a compiled program; what pools goes through another, `hidden`, over the same cache."""

    def __init__(
        self,
        backend: Backend,
        executable: Executable,
        kv_cache: KVCache,
        batch: BatchBuilder,
        hidden: Executable,
        *,
        names_states: bool = False,
        judge: Judge | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._names_states = names_states
        self._judge = judge
        self._backend = backend
        self._asynchronous = backend if isinstance(backend, AsynchronousBackend) else None
        self._executable = executable
        self._kv_cache = kv_cache
        self._batch = batch
        self._sampler_inputs = SamplerInputs(backend.uniforms)
        self._pooling = PoolingRunner(backend, hidden, batch)

    def run(self, plan: StepPlan) -> StepResult:
        """Run one step: a token for each row that samples, prompt log probabilities and hidden states if wanted."""
        if plan.block_copies:
            self._kv_cache.copy_blocks(plan.block_copies)
        generating, pooling = split_pooling(plan)
        result = self._generate(generating) if generating else StepResult([], [], None, [])
        result.hidden = self._pooling.run(pooling) if pooling else []
        return result

    @property
    def is_asynchronous(self) -> bool:
        """Whether steps can be launched without waiting for their tokens."""
        return self._asynchronous is not None

    def launch(self, plan: StepPlan, before: LaunchedStep | None = None) -> LaunchedStep:
        """Start one step without guesses. Its sequences' unknown last tokens are those that `before` drew, the step
        that was launched last."""
        if plan.block_copies:
            self._kv_cache.copy_blocks(plan.block_copies)
        generating, pooling = split_pooling(plan)
        launched = (
            self._launch(generating, before) if generating else LaunchedStep([], None, StepResult([], [], None, []))
        )
        launched.known.hidden = self._pooling.run(pooling) if pooling else []
        return launched

    def land(self, launched: LaunchedStep) -> StepResult:
        """Wait for the step's tokens. Sequences that ended since it was launched are left out."""
        result = launched.known
        if launched.drawn is not None:
            token_S, top = launched.drawn.read()
            result.sequences, result.tokens = launched.sequences, token_S.tolist()
            result.logprobs = None if top is None else _entries(top, result.sequences, result.tokens)
        return result.of_unfinished()

    def _generate(self, plan: StepPlan) -> StepResult:
        rows = _SampledRows(plan)
        logits = self._executable.run(self._batch.build(plan, rows.rows))
        result = self._beside(logits, rows)
        split = len(rows.sequences)
        if split:
            result.sequences = rows.sequences
            result.tokens, result.logprobs, result.waited_s = self._sample(plan, logits[:split], rows)
        if self._names_states:
            result.states = self._executable.states()
            result.rows = list(range(split))
        return result

    def _launch(self, plan: StepPlan, before: LaunchedStep | None) -> LaunchedStep:
        assert self._asynchronous is not None
        rows = _SampledRows(plan)
        inputs = self._batch.build(plan, rows.rows)
        if before is not None:
            before.feed(plan, inputs)
        logits = self._executable.run(inputs)
        drawn = None
        if rows.sequences:
            sampling = self._sampler_inputs.build(rows.sequences, logits.shape[-1])
            if before is not None:
                before.feed_history(rows.sequences, sampling)
            num_logprobs = self._sampler_inputs.max_logprobs
            drawn = self._asynchronous.draw(logits[: len(rows.sequences)], sampling, num_logprobs)
        return LaunchedStep(rows.sequences, drawn, self._beside(logits, rows))

    def _beside(self, logits: Any, rows: _SampledRows) -> StepResult:
        """What a step brings beside its tokens: scores of prompts and raw rows."""
        split = len(rows.sequences)
        raw_from = split + len(rows.targets)
        scores = self._score(logits[split:raw_from], rows.scored, rows.targets) if rows.targets else []
        raw = _raw_rows(self._backend.on_host(logits[raw_from:]), rows.raw) if rows.raw else []
        return StepResult([], [], None, scores, logits=raw)

    def _sample(
        self, plan: StepPlan, logits: Any, rows: _SampledRows
    ) -> tuple[list[int], list[TokenLogprobs | None] | None, float]:
        """Tokens, what is asked about them, and the seconds of waiting for the device."""
        inputs = self._sampler_inputs.build(rows.sequences, logits.shape[-1], rows.ahead)
        is_judged = self._judge is not None and rows.ahead is not None
        started = self._clock()
        if self._asynchronous is not None and not is_judged:  # tokens and log probabilities in one wait
            token_S, top = self._asynchronous.draw(logits, inputs, self._sampler_inputs.max_logprobs).read()
            waited_s = self._clock() - started
            tokens: list[int] = token_S.tolist()
            return tokens, None if top is None else _entries(top, rows.sequences, tokens), waited_s
        token_S = self._backend.sample(logits, inputs)
        waited_s = self._clock() - started
        if self._judge is not None and rows.ahead is not None:
            self._judge(plan, self._backend.on_host(logits), token_S)
        tokens = token_S.tolist()
        wanted = self._sampler_inputs.max_logprobs
        if wanted is None:
            return tokens, None, waited_s
        top = self._backend.top_logprobs(logits, token_S, wanted)
        return tokens, _entries(top, rows.sequences, tokens), waited_s

    def _score(self, logits: Any, scored: list[ScheduledSequence], targets: list[int]) -> list[PromptLogprobs]:
        wanted = max(item.sequence.params.prompt_logprobs or 0 for item in scored)
        top = self._backend.top_logprobs(logits, np.array(targets, np.int32), wanted)
        results, row = [], 0
        for item in scored:
            count = _num_scored(item)
            k = item.sequence.params.prompt_logprobs or 0
            entries = [_entry(top, row + i, targets[row + i], k) for i in range(count)]
            results.append(PromptLogprobs(item.sequence, item.start + 1, entries))
            row += count
        return results


def _goes_on(sequence: Sequence) -> bool:
    return sequence.state is not SequenceState.FINISHED


def _tokens_ahead(plan: StepPlan) -> list[list[int]] | None:
    """Before which guesses each row that samples stands; None where nobody guesses."""
    if not plan.drafting:
        return None
    ahead: list[list[int]] = []
    for item in plan.scheduled:
        if not item.samples:
            continue
        draft = item.draft
        if item.tree is None:
            ahead.extend([draft[:count] for count in range(len(draft) + 1)])
        else:
            ahead.append([])
            ahead.extend([[draft[guess] for guess in path] for path in item.tree.paths])
        ahead.extend([] for _ in item.forks)
    return ahead


def _raw_rows(logits: Float32Array, wanted: list[tuple[Sequence, int, int]]) -> list[LogitsRows]:
    results, row = [], 0
    for sequence, start, count in wanted:
        if count > 0:
            results.append(LogitsRows(sequence, start, logits[row : row + count]))
            row += count
    return results


def _num_scored(item: ScheduledSequence) -> int:
    """Rows of this chunk that predict a prompt token: the prompt's last row predicts an output token."""
    return min(item.start + item.num_new, item.sequence.num_prompt - 1) - item.start


def _entries(top: TopLogprobs, sequences: list[Sequence], tokens: list[int]) -> list[TokenLogprobs | None]:
    return [
        None if (k := sequence.params.logprobs) is None else _entry(top, row, tokens[row], k)
        for row, sequence in enumerate(sequences)
    ]


def _entry(top: TopLogprobs, row: int, token: int, k: int) -> TokenLogprobs:
    return TokenLogprobs(
        token=token,
        logprob=float(top.logprob_S[row]),
        rank=int(top.rank_S[row]),
        top_ids=tuple(top.top_ids_SK[row, :k].tolist()),
        top_logprobs=tuple(top.top_logprobs_SK[row, :k].tolist()),
    )
