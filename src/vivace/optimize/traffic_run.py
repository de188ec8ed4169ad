"""Traffic played on an engine in this process, on the calling thread: no HTTP, the engine's own events and clock."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.bench.records import RequestRecord, Status
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.core.errors import RequestError
from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine
from vivace.optimize.prompts import PromptReader

TEMPERATURE = 0.7  # as chats are served: greedy text of a small model runs in circles, which flatters speculation


@dataclass(slots=True)
class _Underway:
    """A request that the engine has."""

    request: TrafficRequest
    intended_s: float
    sent_s: float
    prompt_len: int
    tokens: list[int] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)


class TrafficRun:
    """Sends what is due, steps the engine, notes when each token came. Used once.

    After `limit_s` seconds and one whole answer everything ends: what is under way is cancelled with the tokens that
    it has.
    In a closed loop a user who has an answer sends at once: pauses between turns cost the measurement's time, not the
    engine's. In an open one requests come at their `arrival_s`.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: PromptReader,
        traffic: Traffic,
        *,
        greedy: bool = False,
        limit_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine, self._prompts, self._traffic = engine, prompts, traffic
        self._greedy, self._limit_s = greedy, limit_s
        self._clock, self._sleep = clock, sleep
        self._users = traffic.concurrency
        self._known = {request.index for request in traffic.requests}
        self._ready: deque[tuple[float, TrafficRequest]] = deque()  # in a closed loop: since when
        self._later: deque[TrafficRequest] = deque()  # in an open one: by arrival
        self._followers: dict[int, list[TrafficRequest]] = {}
        self._underway: dict[str, _Underway] = {}
        self._records: list[RequestRecord] = []
        self._num_answered = 0
        self._encoded: dict[int, list[int]] = {}
        self.answers: dict[int, list[int]] = {}  # token ids, by the request's index

    def run(self) -> list[RequestRecord]:
        """Records in the order in which requests ended."""
        self._arrange()
        started = self._clock()
        while self._ready or self._later or self._underway:
            now = self._clock() - started
            self._release(now)
            if now >= self._limit_s and self._num_answered:
                self._give_up(now)
            elif self._underway:
                self._step(started)
            elif self._later and not self._ready:
                self._sleep(max(0.0, (self._later[0].arrival_s or 0.0) - now))
        return self._records

    def _arrange(self) -> None:
        """Encode what is known beforehand: a client's time is not the engine's."""
        for request in self._traffic.requests:
            if request.after is not None and request.after in self._known:
                self._followers.setdefault(request.after, []).append(request)
                continue
            self._encoded[request.index] = self._prompts.token_ids(request)
            if request.arrival_s is not None and self._users is None:
                self._later.append(request)
            else:
                self._ready.append((0.0, request))

    def _release(self, now: float) -> None:
        while self._later and (self._later[0].arrival_s or 0.0) <= now:
            request = self._later.popleft()
            self._ready.append((request.arrival_s or 0.0, request))
        while self._ready and (self._users is None or len(self._underway) < self._users):
            self._send(*self._ready.popleft(), now)
        for request_id, one in list(self._underway.items()):
            patience = one.request.cancel_after_s
            if patience is not None and now - one.sent_s >= patience:
                self._engine.abort(request_id)

    def _give_up(self, now: float) -> None:
        """Cancel what is under way; nothing else is sent."""
        self._ready.clear()
        self._later.clear()
        self._followers.clear()
        for request_id in self._underway:
            self._engine.abort(request_id)
        for event in self._engine.drain_events():
            self._take(event, now)

    def _send(self, intended_s: float, request: TrafficRequest, now: float) -> None:
        prompt = self._encoded.pop(request.index, None) or self._prompts.token_ids(request)
        params = SamplingParams(
            max_tokens=request.output_len,
            temperature=0.0 if self._greedy else TEMPERATURE,
            seed=self._traffic.seed + request.index,
            ignore_eos=True,
        )
        request_id = str(request.index)
        if self._users is not None:
            intended_s = now  # this is when a user is free
        try:
            self._engine.add(request_id, prompt, params)
        except RequestError as error:
            self._records.append(_refused(request, intended_s, now, len(prompt), str(error)))
            self._follow(request, [], now)
            return
        self._underway[request_id] = _Underway(request, intended_s, now, len(prompt))

    def _step(self, started: float) -> None:
        events = self._engine.step()
        now = self._clock() - started
        for event in events:
            self._take(event, now)

    def _take(self, event: TokenEvent, now: float) -> None:
        one = self._underway[event.request_id]
        if event.token is not None:
            one.tokens.append(event.token)
            one.token_s.append(now)
        if event.finish is not None:
            self._finish(event, one, now)

    def _finish(self, event: TokenEvent, one: _Underway, now: float) -> None:
        known = self._engine.record(event.request_id)
        timings, status = known.timings, _status(event)
        self._records.append(
            RequestRecord(
                index=one.request.index,
                intended_s=one.intended_s,
                sent_s=one.sent_s,
                ended_s=now,
                status=status,
                prompt_len=one.prompt_len,
                output_len=len(one.tokens),
                token_s=tuple(one.token_s),
                queue_s=None if timings.admitted is None else timings.admitted - timings.arrival,
                num_cached_tokens=known.num_cached_tokens,
                error=str(event.stop_reason) if status == "error" else None,
            )
        )
        self._num_answered += status == "ok"
        self._engine.forget(event.request_id)
        del self._underway[event.request_id]
        self.answers[one.request.index] = one.tokens
        self._follow(one.request, one.tokens, now)

    def _follow(self, request: TrafficRequest, answer: list[int], now: float) -> None:
        """Who waited for this answer goes first: a user's next turn, before another user begins."""
        for follower in reversed(self._followers.pop(request.index, [])):
            self._ready.appendleft((now, self._prompts.with_answer(follower, answer)))


def _status(event: TokenEvent) -> Status:
    if event.finish == "abort":
        return "cancelled"
    return "error" if event.finish == "error" else "ok"


def _refused(request: TrafficRequest, intended_s: float, now: float, prompt_len: int, reason: str) -> RequestRecord:
    return RequestRecord(request.index, intended_s, now, now, "refused", prompt_len, 0, error=reason)
