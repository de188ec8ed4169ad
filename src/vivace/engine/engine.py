"""The loop: plan, run, sample, commit, emit. Tokens in, events out; no text, no threads, no HTTP."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from itertools import count, repeat

from vivace.core.account import RequestAccount
from vivace.core.config import ResolvedConfig
from vivace.core.errors import RequestError
from vivace.core.events import FinishReason, RequestTimings, TokenEvent, TokenLogprobs
from vivace.core.history import Chunk
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling, Sequence, SequenceState
from vivace.core.step import StepPlan
from vivace.engine.constraint_room import ConstraintRoom
from vivace.engine.continuations import continuation, continued, end_without_token
from vivace.engine.flight import Flight, goes_on_unread
from vivace.engine.logits import LogitsReader
from vivace.engine.model_limits import ModelLimits
from vivace.engine.pooling import PooledStates
from vivace.engine.request_record import RequestRecord, StepMark
from vivace.engine.stats import EngineStats
from vivace.ops.random import derived_seed
from vivace.runtime.runner import Runner, StepResult
from vivace.schedule import Scheduler
from vivace.speculate.speculation import Speculation


class Engine:
    """Owns requests, the scheduler and the runner. `step()` does one unit of work and returns its events."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        config: ResolvedConfig,
        limits: ModelLimits,
        clock: Callable[[], float] = time.monotonic,
        constraints: ConstraintRoom | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self.limits = limits
        self._clock = clock
        self._arrivals = count()
        self._requests: dict[str, RequestRecord] = {}
        self._events: list[TokenEvent] = []
        self._num_unfinished = 0
        self._num_constrained = 0  # unfinished requests that run under a constraint
        self.constraints = constraints or ConstraintRoom(None, limits.eos_ids)
        self.speculation = speculation
        self.config = config
        self.stats = EngineStats()
        self._overlaps = runner.is_asynchronous and config.overlap_steps
        self._flight: Flight | None = None

    def add(
        self,
        request_id: str,
        prompt: Items[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: bytes = b"",
        emitted: Items[Items[int] | None] | None = None,
        pooling: Pooling | None = None,
        logits: LogitsReader | None = None,
    ) -> None:
        """Queue a request of prompt token ids. Raises `RequestError` when it can never be served.

        `emitted` continues a request that another engine has begun: for each continuation its tokens so far, None
        where it has ended. With the same seed, what follows is equal to the bit.
        With `pooling` no token is generated (`params` must say max_tokens=0): the request ends with one event, "stop"
        without a token, and its record holds the `embedding`. `logits` reads the prompt's raw logits.
        """
        if request_id in self._requests:
            raise RequestError(f"request id {request_id!r} is already running", param="request_id")
        self.limits.check(prompt, params, pooling, self.config.max_model_len)
        arrival = next(self._arrivals)
        room = self.config.max_model_len - len(prompt)
        max_new = room if params.max_tokens is None else min(params.max_tokens, room)
        sequence = Sequence(
            request_id=request_id,
            index=0,
            tokens=array("i", prompt),
            num_prompt=len(prompt),
            params=params,
            seed=params.seed if params.seed is not None else derived_seed(self.config.seed, arrival),
            arrival=arrival,
            priority=priority,
            cache_salt=cache_salt,
            max_len=len(prompt) + max_new,
            stop_ids=frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.limits.eos_ids),
            use_prefix_cache=params.prompt_logprobs is None and pooling != "mean",
            pooling=pooling,
            logits_from=None if logits is None else logits.first,
            num_forks=params.n - 1,
        )
        sequences = [sequence] if emitted is None else continued(sequence, emitted, self.limits)
        self._queue(sequences, params)
        num_unfinished = sum(1 + one.num_forks for one in sequences)
        request = RequestRecord(RequestTimings(arrival=self._clock()), sequences, num_unfinished)
        if params.prompt_logprobs is not None:
            request.prompt_logprobs = [None] * len(prompt)
        if pooling is not None:
            request.pooled = PooledStates(pooling)
        request.logits = logits
        self._requests[request_id] = request
        self._num_unfinished += 1
        if emitted is None:
            self.stats.num_prompt_tokens += len(prompt)

    def abort(self, request_id: str) -> None:
        """End every continuation of a request now; its blocks are free when this returns. Unknown ids are ignored."""
        request = self._requests.get(request_id)
        for sequence in request.sequences if request else ():
            if sequence.state is not SequenceState.FINISHED:
                self._end(sequence, None, None, "abort", None)

    def stop(self, request_id: str, index: int, stop_reason: str) -> None:
        """End one continuation because its text reached a stop string (text is known outside the engine)."""
        request = self._requests.get(request_id)
        for sequence in request.sequences if request else ():
            if sequence.index == index and sequence.state is not SequenceState.FINISHED:
                self._end(sequence, None, None, "stop", stop_reason)

    @property
    def num_unfinished(self) -> int:
        """Requests with at least one continuation still to end."""
        return self._num_unfinished

    @property
    def idle_s(self) -> float | None:
        """Seconds until `step` has work although nothing is added (a static batch fills up): 0 now, None never."""
        if self._events or self._flight is not None:
            return 0.0
        waits = [one for one in (self._scheduler.idle_s, self.constraints.idle_s) if one is not None]
        return min(waits, default=None)

    def drain_events(self) -> list[TokenEvent]:
        """Events that `abort` and `stop` left, without a step."""
        events, self._events = self._events, []
        return events

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    def record(self, request_id: str) -> RequestRecord:
        """What the engine knows of a request beyond its tokens. Raises KeyError once it was forgotten."""
        return self._requests[request_id]

    def account(self, request_id: str) -> RequestAccount | None:
        """Why the request takes as long as it does; None where there is none."""
        record = self._requests.get(request_id)
        return None if record is None else record.account(self._scheduler, self._mark())

    def forget(self, request_id: str) -> None:
        """Drop a finished request's record, once its last event has been read."""
        self._requests.pop(request_id, None)

    def step(self) -> list[TokenEvent]:
        """One unit of work. Returns the events since the last call; empty when there is nothing to do yet."""
        self._release_compiled()
        if self._overlaps:
            self._step_ahead()
        elif plan := self._scheduler.plan():
            self._step_plainly(plan)
        return self.drain_events()

    def _step_plainly(self, plan: StepPlan) -> None:
        ended = self._prepare(plan)
        speculation = None if self.speculation is None or self.speculation.rests(plan) else self.speculation
        if speculation is not None:
            speculation.overlaps = self._overlaps
            speculation.propose(plan)
        result = self._runner.run(plan)
        if speculation is not None:
            self._emit_tokens(*speculation.verify(plan, result))
        self._commit(plan)
        self._emit(result)
        for sequence in ended:
            self._end_prompt(sequence)
        if speculation is not None:
            speculation.choose(plan)
        self.stats.count_step(plan)

    def _step_ahead(self) -> None:
        """Launch the next step before the tokens of the one in flight are read, and read those.

        It is planned as if no sequence stopped: a token that only the device knows stands behind each. Where one did
        stop, its row of the new step is dropped. Where a step must know the tokens, they are read first.
        """
        before = self._flight
        if before is not None and before.drop_ended():
            self.stats.count_step(before.plan)
        if before is not None and not (
            self._is_unwatched and goes_on_unread(before, self._scheduler.block_manager, self._num_constrained)
        ):
            self._flight = None
            self._land(before)
            before = None
        if before is None:
            if not self._is_unwatched:
                if plan := self._scheduler.plan():
                    self._step_plainly(plan)
                return
            flight = self._launch(None)
        else:
            with before.assumed():
                flight = self._launch(before)
            self._land(before)
        self._flight = flight if flight is not None and flight.drop_ended() else None
        if self._flight is not None:
            self._commit(self._flight.plan)

    @property
    def _is_unwatched(self) -> bool:
        """Whether nobody guesses in the next step, or looks at it."""
        return self.speculation is None or self.speculation.is_resting

    def _launch(self, before: Flight | None) -> Flight | None:
        plan = self._scheduler.plan()
        if not plan:
            return None
        ended = self._prepare(plan)
        if self.speculation is not None:
            self.speculation.rests(plan)
        return Flight(plan, self._runner.launch(plan, None if before is None else before.launched), ended)

    def _land(self, flight: Flight) -> None:
        self._emit(self._runner.land(flight.launched))
        for sequence in flight.ended:
            if sequence.state is not SequenceState.FINISHED:
                self._end_prompt(sequence)

    def _commit(self, plan: StepPlan) -> None:
        self._scheduler.commit(plan)
        for item in plan.scheduled:
            for child in item.forks:
                self._scheduler.fork(item.sequence, child)
                self._requests[child.request_id].sequences.append(child)

    def _mark(self) -> StepMark:
        return StepMark.of(self.stats, self.speculation)

    def _queue(self, sequences: list[Sequence], params: SamplingParams) -> None:
        """Let the sequences run; those under a constraint once it is compiled."""
        if params.structured_outputs is None:
            for one in sequences:
                self._scheduler.add(one)
            return
        for one in sequences:
            self._scheduler.check(one)
        self.constraints.hold(sequences, params.structured_outputs)

    def _release_compiled(self) -> None:
        for held in self.constraints.take_ready():
            error = held.compiled.exception()
            if error is not None and not isinstance(error, RequestError):
                raise error
            if held.sequences and error is None:
                record = self._requests[held.sequences[0].request_id]
                record.constraint, record.compiled = held.compiled.result(), self._clock()
                self._num_constrained += 1
            for sequence in held.sequences:
                self._scheduler.add(sequence)
                if error is not None:
                    self._end(sequence, None, None, "error", str(error))

    def _constrain(self, plan: StepPlan) -> None:
        """Give each sequence that samples for the first time its constraint, at the point that its tokens reached."""
        for item in plan.scheduled:
            for sequence in (item.sequence, *item.forks) if item.samples else ():
                compiled = self._requests[sequence.request_id].constraint
                if compiled is not None and sequence.constraint is None:
                    sequence.constraint = compiled.begin()
                    for token in sequence.output_tokens():
                        sequence.constraint.accept(token)

    def _prepare(self, plan: StepPlan) -> list[Sequence]:
        """Note admissions and create the forks of prompts that this step completes.

        Returns the sequences that end with their prompt (max_tokens = 0): scored or pooled, no token is wanted.
        """
        for sequence in plan.table_resets:  # the admitted ones are among them
            record = self._requests[sequence.request_id]
            if record.admission is None:
                record.timings.admitted, record.admission = self._clock(), self._mark()
        ended = []
        for item in plan.scheduled:
            sequence = item.sequence
            if item.start >= sequence.num_prompt:  # a decode row
                continue
            plan.num_chunks += 1
            sequence.history.note_chunk(Chunk(item.start, item.num_new, plan.num_tokens, self._clock()))
            if not item.samples:  # an inner chunk
                continue
            if len(sequence.tokens) >= sequence.max_len:
                item.samples = False
                ended.append(sequence)
            elif sequence.num_forks:
                item.forks = [continuation(sequence, index) for index in range(1, sequence.num_forks + 1)]
        if self._num_constrained:
            self._constrain(plan)
        return ended

    def _emit(self, result: StepResult) -> None:
        for scored in result.prompt_logprobs:
            kept = self._requests[scored.sequence.request_id].prompt_logprobs
            if kept is not None:
                kept[scored.start : scored.start + len(scored.logprobs)] = scored.logprobs
        for hidden in result.hidden:
            pooled = self._requests[hidden.sequence.request_id].pooled
            if pooled is not None:
                pooled.add(hidden.start, hidden.rows_SD)
        for raw in result.logits:
            reader = self._requests[raw.sequence.request_id].logits
            if reader is not None:
                reader.read(raw.start, raw.rows_SV)
        self._emit_tokens(result.sequences, result.tokens, result.logprobs)

    def _emit_tokens(
        self, sequences: list[Sequence], tokens: list[int], logprobs: list[TokenLogprobs | None] | None
    ) -> None:
        self.stats.num_generation_tokens += len(tokens)
        entries: Iterable[TokenLogprobs | None] = repeat(None) if logprobs is None else logprobs
        for sequence, token, entry in zip(sequences, tokens, entries, strict=False):
            self._append(sequence, token, entry)

    def _append(self, sequence: Sequence, token: int, logprobs: TokenLogprobs | None) -> None:
        tokens = sequence.tokens
        if len(tokens) == sequence.num_prompt:
            timings = self._requests[sequence.request_id].timings
            timings.first_token = timings.first_token or self._clock()
        constraint = sequence.constraint
        if token < 0:
            self._end(sequence, None, None, *end_without_token(constraint))
            return
        tokens.append(token)
        if token in sequence.stop_ids and sequence.num_output > sequence.params.min_tokens:
            self._end(sequence, token, logprobs, "stop", token)
            return
        if constraint is not None:
            constraint.accept(token)
            if constraint.failure is not None:
                self._end(sequence, token, logprobs, "error", constraint.failure)
                return
        if constraint is not None and constraint.is_complete:
            self._events.append(TokenEvent(sequence.request_id, sequence.index, token, logprobs))
            self._end(sequence, None, None, "stop", None)  # on its own: the token of a "stop" is no text
        elif len(tokens) >= sequence.max_len:
            self._end(sequence, token, logprobs, "length", None)
        else:
            self._events.append(TokenEvent(sequence.request_id, sequence.index, token, logprobs))

    def _end_prompt(self, sequence: Sequence) -> None:
        """End a sequence that wanted no token."""
        request = self._requests[sequence.request_id]
        if request.pooled is None:
            self._end(sequence, None, None, "length", None)
            return
        request.embedding = request.pooled.vector()
        if request.embedding is None:
            self._end(sequence, None, None, "error", "the model's hidden states are not finite")
        else:
            self._end(sequence, None, None, "stop", None)

    def _end(
        self,
        sequence: Sequence,
        token: int | None,
        logprobs: TokenLogprobs | None,
        reason: FinishReason,
        stop_reason: int | str | None,
    ) -> None:
        """End a sequence and, when its prompt was not computed yet, the continuations it would have forked."""
        if not self.constraints.drop(sequence):
            self._scheduler.finish(sequence)
        if self.speculation is not None:
            self.speculation.forget(sequence)
        request = self._requests[sequence.request_id]
        self._events.append(TokenEvent(sequence.request_id, sequence.index, token, logprobs, reason, stop_reason))
        for index in range(1, sequence.num_forks + 1):
            self._events.append(TokenEvent(sequence.request_id, index, None, None, reason, stop_reason))
        request.num_unfinished -= 1 + sequence.num_forks
        if request.num_unfinished == 0:
            request.timings.finished = self._clock()
            self._num_unfinished -= 1
            self._num_constrained -= request.constraint is not None
        self.stats.count_finished(reason)
