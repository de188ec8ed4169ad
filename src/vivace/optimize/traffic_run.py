"""Traffic played on an engine in this process, on the calling thread: no HTTP, the engine's own events."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from vivace.bench.records import RequestRecord, Status
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.core.errors import RequestError
from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine
from vivace.optimize.prompts import PromptReader
from vivace.optimize.stopwatch import Stopwatch

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
    """Sends what is due, steps the engine, notes when each token came. Used once, by `run` or step by step.

    Its time is the engine's: it stands still while prompts are encoded and while another run has the machine, and
    leaps to the next arrival where nothing is under way. After `limit_s` seconds and one whole answer, or
    `enough_tokens` of any, everything ends: what is under way is cancelled with the tokens that it has. In a closed
    loop a user who has an answer sends at once. In an open one requests come at their `arrival_s`, a next turn not
    before the answer that it follows.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: PromptReader,
        traffic: Traffic,
        *,
        greedy: bool = False,
        limit_s: float = math.inf,
        enough_tokens: float = math.inf,
        watch: Stopwatch | None = None,
    ) -> None:
        self._engine, self._prompts, self._traffic = engine, prompts, traffic
        self._greedy, self._limit_s, self._enough_tokens = greedy, limit_s, enough_tokens
        self._watch = watch or Stopwatch()
        self._users = traffic.concurrency
        self._known = {request.index for request in traffic.requests}
        self._ready: deque[tuple[float, TrafficRequest]] = deque()  # in a closed loop: since when
        self._later: list[tuple[float, int, TrafficRequest]] = []  # in an open one: by arrival
        self._followers: dict[int, list[TrafficRequest]] = {}
        self._underway: dict[str, _Underway] = {}
        self._encoded: dict[int, list[int]] = {}
        self._num_answered = 0
        self._num_tokens = 0
        self._wanted_tokens = max(1, sum(request.output_len for request in traffic.requests))
        self.records: list[RequestRecord] = []  # in the order in which requests ended
        self.answers: dict[int, list[int]] = {}  # token ids, by the request's index

    def run(self) -> list[RequestRecord]:
        """All of it at once."""
        for _ in self.steps():
            pass
        return self.records

    @property
    def seconds(self) -> float:
        """That it took so far, on its own watch."""
        return self._watch.read()

    def steps(self) -> Iterator[float]:
        """The share that is done, after each of the engine's steps; the watch stands still in between."""
        self._arrange()
        while self._ready or self._later or self._underway:
            self._watch.start()
            now = self._watch.read()
            self._release(now)
            if now >= self._limit_s and (self._num_answered or self._num_tokens >= self._enough_tokens):
                self._give_up(now)
            elif self._underway:
                self._step()
            self._watch.stop()
            if self._later and not self._ready and not self._underway:
                self._watch.leap(max(0.0, self._later[0][0] - self._watch.read()))
            yield max(self._num_tokens / self._wanted_tokens, min(1.0, self._watch.read() / max(1e-9, self._limit_s)))

    def _arrange(self) -> None:
        """Encode what is known beforehand: a client's time is not the engine's."""
        for request in self._traffic.requests:
            if request.after is not None and request.after in self._known:
                self._followers.setdefault(request.after, []).append(request)
                continue
            self._encoded[request.index] = self._prompts.token_ids(request)
            if request.arrival_s is not None and self._users is None:
                self._schedule(request.arrival_s, request)
            else:
                self._ready.append((0.0, request))

    def _schedule(self, moment: float, request: TrafficRequest) -> None:
        insort(self._later, (moment, request.index, request))

    def _release(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            moment, _, request = self._later.pop(0)
            self._ready.append((moment, request))
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
        prompt = self._encoded.pop(request.index)
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
            self.records.append(_refused(request, intended_s, now, len(prompt), str(error)))
            self._follow(request, [], now)
            return
        self._underway[request_id] = _Underway(request, intended_s, now, len(prompt))

    def _step(self) -> None:
        events = self._engine.step()
        now = self._watch.read()
        for event in events:
            self._take(event, now)

    def _take(self, event: TokenEvent, now: float) -> None:
        one = self._underway[event.request_id]
        if event.token is not None:
            one.tokens.append(event.token)
            one.token_s.append(now)
            self._num_tokens += 1
        if event.finish is not None:
            self._finish(event, one, now)

    def _finish(self, event: TokenEvent, one: _Underway, now: float) -> None:
        status = _status(event)
        self.records.append(
            RequestRecord(
                index=one.request.index,
                intended_s=one.intended_s,
                sent_s=one.sent_s,
                ended_s=now,
                status=status,
                prompt_len=one.prompt_len,
                output_len=len(one.tokens),
                token_s=tuple(one.token_s),
                num_cached_tokens=self._engine.record(event.request_id).num_cached_tokens,
                error=str(event.stop_reason) if status == "error" else None,
            )
        )
        self._num_answered += status == "ok"
        self._engine.forget(event.request_id)
        del self._underway[event.request_id]
        self.answers[one.request.index] = one.tokens
        self._follow(one.request, one.tokens, now)

    def _follow(self, request: TrafficRequest, answer: list[int], now: float) -> None:
        """Who waited for this answer: in a closed loop the user's next turn, before another user begins."""
        for follower in reversed(self._followers.pop(request.index, [])):
            self._watch.stop()  # decoding and encoding is a client's work
            turn = self._prompts.with_answer(follower, answer)
            self._encoded[turn.index] = self._prompts.token_ids(turn)
            self._watch.start()
            if turn.arrival_s is not None and self._users is None:
                self._schedule(max(now, turn.arrival_s), turn)
            else:
                self._ready.appendleft((now, turn))


def _status(event: TokenEvent) -> Status:
    if event.finish == "abort":
        return "cancelled"
    return "error" if event.finish == "error" else "ok"


def _refused(request: TrafficRequest, intended_s: float, now: float, prompt_len: int, reason: str) -> RequestRecord:
    return RequestRecord(request.index, intended_s, now, now, "refused", prompt_len, 0, error=reason)
