"""The door: refuses at once what could not be begun in time, and gives out turns.

enter ─▸ measured ─▸ turn ─▸ first_token ─▸ tokens … ─▸ release
bytes    tokens      waits    the engine has it

One event loop, no I/O, no locks; time comes from `clock`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from types import TracebackType
from typing import get_args

from vivace.core.errors import ContextLengthError, DeadlineError, OverloadedError, RequestError
from vivace.serve.admission.demand import Demand
from vivace.serve.admission.drain_rate import DrainRate
from vivace.serve.admission.engine_room import EngineRoom
from vivace.serve.admission.fair_queue import FairQueue
from vivace.serve.admission.known_prefixes import KnownPrefixes
from vivace.serve.admission.limits import AdmissionLimits, EngineState, UnknownState
from vivace.serve.admission.occupancy import Occupancy, Refusal
from vivace.serve.admission.request_sizes import RequestSizes
from vivace.serve.admission.turn_delays import TurnDelays

LATE = 1.2  # a turn that did not come within so many times `max_queue_s` is refused
LATENESS_MEMORY = 0.1
LEAD = 0.1  # of `max_queue_s`, as prompt work that lies ready: the engine never waits, the order stays ours
MAX_RETRY_S = 600.0

_MESSAGES: dict[Refusal, str] = {
    "requests": "too many requests wait",
    "tokens": "too many prompt tokens wait",
    "blocks": "what was admitted could come to need too much of the KV cache",
    "wait": "the wait would be too long",
    "late": "the engine fell behind what was predicted",
}


class Admission:
    """Who may come in and whose turn it is. See `AdmissionLimits` for the bounds.

    `state` tells where the engine stands (`EngineClient.gauges`); without it, the default rates stay.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        clock: Callable[[], float] = time.monotonic,
        state: Callable[[], EngineState] | None = None,
    ) -> None:
        self.limits = limits
        self.num_refused = Counter[str](
            dict.fromkeys(get_args(Refusal), 0)
        )  # a rate needs the 0 before the first one
        self._clock = clock
        self._state = state or partial(UnknownState, limits.engine.num_kv_blocks)
        self._rate = DrainRate(limits, self._state, clock)
        self._sizes = RequestSizes(limits.engine)
        self._prefixes = KnownPrefixes()
        self._occupancy = Occupancy(limits)
        self._room = EngineRoom(limits.engine)
        self._queue: FairQueue[Ticket] = FairQueue(limits.aging_s, self._rate.seconds)
        self._delays = TurnDelays()
        self._lateness_s = 0.0  # by how much turns came later than predicted, a moving mean

    def enter(self, *, key: str, num_bytes: int, max_tokens: int | None, n: int = 1, priority: int = 0) -> Ticket:
        """Let a request in, from its length in bytes alone, or raise `OverloadedError` at once.

        A request of several prompts enters once for each of them, with `num_bytes` of that prompt. A lower priority
        value goes first. Leave the ticket (it is a context manager) whatever happens.
        """
        self._rate.observe()
        demand = self._sizes.estimate(num_bytes, max_tokens, n)
        wait_s = self.predicted_wait_s(key, priority)
        refusal = self._occupancy.refusal(key, demand)
        if refusal is None and wait_s > self.limits.max_queue_s and self._occupancy.waiting.num_requests:
            refusal = "wait"
        if refusal is not None:
            raise self._refused(refusal, wait_s)
        ticket = Ticket(self, key, priority, num_bytes, n, demand, self._clock(), wait_s)
        self._occupancy.enter(key, demand)
        self._queue.announce(ticket)
        return ticket

    def refuse_unread(self, key: str, priority: int = 0) -> None:
        """Raise the `OverloadedError` that `enter` would raise now whatever the request's size; else do nothing."""
        if not self._occupancy.waiting.num_requests:
            return
        self._rate.observe()
        wait_s = self.predicted_wait_s(key, priority)
        if self._occupancy.is_full(key):
            raise self._refused("requests", wait_s)
        if wait_s > self.limits.max_queue_s:
            raise self._refused("wait", wait_s)

    def predicted_wait_s(self, key: str | None = None, priority: int = 0) -> float:
        """How long a request that came now would wait for its turn and for the prompts before it.

        Without a key: behind everyone who waits.
        """
        prompts_s = self._rate.prompt_seconds(self._room.unstarted.computed_tokens)
        if not self._queue.backlog.num_requests:
            return prompts_s
        ahead = replace(self._queue.backlog) if key is None else self._queue.ahead(key, priority, self._clock())
        share = self._room.share_at_once(ahead)
        ahead.new_tokens *= 1.0 - share  # those run beside each other; only their prompts come one after another
        lateness_s = self._lateness_s if share < 1.0 else 0.0
        return prompts_s + self._rate.seconds(ahead) + lateness_s

    @property
    def num_queued(self) -> int:
        return round(self._occupancy.waiting.num_requests)

    @property
    def num_queued_tokens(self) -> int:
        return round(self._occupancy.waiting.num_prompt_tokens)

    @property
    def num_worst_case_blocks(self) -> int:
        return round(self._occupancy.admitted.worst_blocks)

    @property
    def num_in_engine(self) -> int:
        return round(self._room.held.num_requests)

    @property
    def prompt_tokens_per_s(self) -> float:
        return self._rate.prompt_tokens_per_s

    @property
    def generation_tokens_per_s(self) -> float:
        return self._rate.generation_tokens_per_s

    def _refused(self, refusal: Refusal, wait_s: float) -> OverloadedError:
        """Come again when half of what may wait has gone, at the measured rate."""
        self.num_refused[refusal] += 1
        excess_s = wait_s - self.limits.max_queue_s / 2
        if refusal not in ("wait", "late"):
            excess_s = self._rate.seconds(self._queue.backlog) / 2
        retry_after_s = float(ceil(min(max(excess_s, 1.0), MAX_RETRY_S)))
        return OverloadedError(
            f"the server is busy: {_MESSAGES[refusal]}; try again in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )

    def _measure(
        self, ticket: Ticket, num_prompt_tokens: int, max_new_tokens: int, prompt: Sequence[int] | None
    ) -> None:
        """The ticket's true demand in place of the estimate. Raises what `Ticket.measured` raises."""
        engine = self.limits.engine
        self._sizes.learn_prompt(ticket.num_bytes, num_prompt_tokens)
        if num_prompt_tokens + min(max_new_tokens, 1) > engine.max_model_len:
            raise ContextLengthError(
                f"the prompt has {num_prompt_tokens} tokens and leaves no room in the context of "
                f"{engine.max_model_len}; shorten it",
                param="prompt",
            )
        if ticket.n > engine.max_num_seqs:
            raise RequestError(f"n = {ticket.n} is more than max_num_seqs = {engine.max_num_seqs}", param="n")
        max_new_tokens = min(max_new_tokens, engine.max_model_len - num_prompt_tokens)
        num_known = None if prompt is None else self._prefixes.note(ticket.key, prompt)
        demand = self._sizes.demand(num_prompt_tokens, max_new_tokens, ticket.n, num_known)
        estimated = ticket.demand
        self._count_out(ticket)
        is_larger = (
            demand.num_prompt_tokens > estimated.num_prompt_tokens or demand.worst_blocks > estimated.worst_blocks
        )
        refusal = self._occupancy.refusal(ticket.key, demand) if is_larger else None
        ticket.demand = demand
        self._occupancy.enter(ticket.key, demand)
        self._queue.announce(ticket)
        if refusal is not None:
            raise self._refused(refusal, self.predicted_wait_s(ticket.key, ticket.priority))

    def _count_out(self, ticket: Ticket) -> None:
        self._queue.withdraw(ticket)
        self._occupancy.stop_waiting(ticket.key, ticket.demand)
        self._occupancy.leave(ticket.key, ticket.demand)

    def _line_up(self, ticket: Ticket) -> None:
        ticket.num_ahead = max(round(self._queue.backlog.num_requests) - 1, 0)
        ticket.delays_before = self._delays.totals(self._clock())
        self._queue.push(ticket)
        self._give_turns()

    def _give_turns(self) -> None:
        """Hand out turns in the queue's order while the engine can start them soon."""
        if not self._queue.backlog.num_requests:
            return
        now = self._clock()
        lead_tokens = LEAD * self.limits.max_queue_s * self._rate.prompt_tokens_per_s
        while (ticket := self._queue.next(now)) is not None:
            state = self._state()
            num_available = state.num_free_blocks + state.num_cached_blocks
            obstacle = self._room.obstacle(ticket.demand, lead_tokens, num_available)
            self._delays.note(now, obstacle)
            if obstacle is not None:
                return
            self._queue.pop(ticket)
            ticket.delays = self._delays.since(ticket.delays_before, now)
            self._occupancy.stop_waiting(ticket.key, ticket.demand)
            self._rate.started()
            self._room.take(ticket.call(now, self.limits.engine.block_size))
            late_s = max(now - ticket.entered - ticket.predicted_wait_s, 0.0)
            self._lateness_s += LATENESS_MEMORY * (min(late_s, self.limits.max_queue_s / 2) - self._lateness_s)
        self._delays.note(now, None)

    def _expire_later(
        self, ticket: Ticket, loop: asyncio.AbstractEventLoop, deadline: float | None
    ) -> asyncio.TimerHandle:
        at = ticket.entered + LATE * self.limits.max_queue_s
        by_deadline = deadline is not None and deadline < at
        if deadline is not None and by_deadline:
            at = deadline
        return loop.call_later(max(at - self._clock(), 0.0), self._expire, ticket, by_deadline)

    def _expire(self, ticket: Ticket, by_deadline: bool) -> None:
        if by_deadline:
            self.num_refused["deadline"] += 1
            ticket.expire(DeadlineError("the time for this request was over before its turn came"))
        else:
            ticket.expire(self._refused("late", self.predicted_wait_s(ticket.key, ticket.priority)))

    def _start(self, held: Demand, num_cached_tokens: int) -> None:
        self._sizes.learn_cached(held.num_prompt_tokens, num_cached_tokens)
        self._room.start(held, num_cached_tokens)
        self._rate.observe()
        self._give_turns()

    def _outgrow(self, ticket: Ticket, held: Demand) -> None:
        """It has generated as much as was expected of it, and goes on."""
        self._room.grow(held, ticket.n)
        ticket.num_expected += ticket.n * self.limits.engine.block_size

    def _release(self, ticket: Ticket, *, finished: bool) -> None:
        held = ticket.held
        if held is None:
            self._count_out(ticket)
        else:
            taken = Demand(computed_tokens=held.computed_tokens, new_tokens=ticket.num_tokens)
            taken.remove(Demand(computed_tokens=ticket.demand.computed_tokens, new_tokens=ticket.demand.new_tokens))
            self._queue.charge(ticket, taken)
            self._occupancy.leave(ticket.key, ticket.demand)
            self._room.give_back(held, started=ticket.is_started)
            if finished and ticket.is_started:
                self._sizes.learn_output(ticket.num_tokens / ticket.n, ticket.max_new_tokens)
            if not self._room.held.num_requests:
                self._rate.stopped()
        self._give_turns()


class Ticket:
    """One request's place: in the room, in the queue, in the engine. Leaving it releases everything."""

    def __init__(
        self,
        admission: Admission,
        key: str,
        priority: int,
        num_bytes: int,
        n: int,
        demand: Demand,
        entered: float,
        predicted_wait_s: float,
    ) -> None:
        self.key = key
        self.priority = priority
        self.num_bytes = num_bytes
        self.n = n
        self.demand = demand  # counted in the room and in the queue: replaced, never changed
        self.entered = entered
        self.called: float | None = None  # when its turn came
        self.predicted_wait_s = predicted_wait_s
        self.max_new_tokens = 0
        self.num_tokens = 0
        self.num_expected = 0.0  # tokens that its blocks have room for
        self.num_ahead = 0  # requests that waited, or were about to, when it joined them
        self.delays_before: dict[str, float] = {}
        self.delays: dict[str, float] = {}  # seconds of its wait, by what the first in the queue lacked
        self.held: Demand | None = None  # what it holds of the engine
        self.is_started = False
        self._admission = admission
        self._is_open = True
        self._turn: asyncio.Future[None] | None = None

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release(finished=kind is None)

    def measured(self, num_prompt_tokens: int, max_new_tokens: int, prompt: Sequence[int] | None = None) -> None:
        """The prompt is tokenised; each of the n continuations may have `max_new_tokens`. Where the tokens themselves
        are given, what the prompt has in common with others of its key is not counted again.

        Raises `ContextLengthError` and `RequestError` for what can never run, and `OverloadedError` where the prompt
        turned out larger than its bytes promised and breaks a bound.
        """
        self.max_new_tokens = max_new_tokens
        self._admission._measure(self, num_prompt_tokens, max_new_tokens, prompt)

    async def turn(self, deadline: float | None = None) -> None:
        """Wait until the engine should get the request: fair between keys, priority first.

        Raises `DeadlineError` at `deadline` (on the admission's clock) and `OverloadedError` where the turn comes far
        later than was predicted; the engine then never hears of the request.
        """
        loop = asyncio.get_running_loop()
        self._turn = loop.create_future()
        self._admission._line_up(self)
        if self.held is not None:
            return
        timer = self._admission._expire_later(self, loop, deadline)
        try:
            await self._turn
        finally:
            timer.cancel()
            if self.held is None:
                self.release(finished=False)

    def call(self, now: float, block_size: int) -> Demand:
        """It is this one's turn. Returns what it holds of the engine from now on."""
        self.called = now
        self.held = replace(self.demand)
        self.num_expected = (self.held.blocks - self.held.prompt_blocks) * block_size
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
        return self.held

    def expire(self, error: Exception) -> None:
        """End the wait with an error."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error)

    def first_token(self, num_cached_tokens: int = 0) -> None:
        """The prompt is computed; the prefix cache held `num_cached_tokens` of it. Count the token with `tokens`."""
        if self.held is not None and not self.is_started and self._is_open:
            self.is_started = True
            self._admission._start(self.held, num_cached_tokens)

    def tokens(self, num_tokens: int) -> None:
        """So many tokens came, of all continuations together."""
        self.num_tokens += num_tokens
        while self.num_tokens > self.num_expected and self.held is not None and self._is_open:
            self._admission._outgrow(self, self.held)

    def release(self, *, finished: bool = True) -> None:
        """Give everything back; harmless when repeated. `finished` is False where the client or an error ended it."""
        if self._is_open:
            self._is_open = False
            self._admission._release(self, finished=finished)
