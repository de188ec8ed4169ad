"""Who asks when, in simulated time, as bench/load/conductor.py does it in real time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vivace.bench.traffic.arrivals import arrivals
from vivace.plan.tokenised_traffic import TokenisedRequest, TokenisedTraffic

REACTION_S = 1e-3  # from an answer's end to the request that follows it, at least: a client and two sockets


@dataclass(frozen=True, slots=True)
class Due:
    """A request and the moment at which it is sent."""

    moment_s: float
    request: TokenisedRequest


class Players:
    """`users` of a closed loop take one dialogue after the other; at a `rate` (a second) each request comes by
    itself, at random; with neither requests come at their own times, and turns of a dialogue after its answers.
    """

    def __init__(
        self, traffic: TokenisedTraffic, *, users: int | None = None, rate: float | None = None, seed: int = 0
    ) -> None:
        self._is_closed = users is not None
        self._turns: dict[int, list[TokenisedRequest]] = {}
        self._begun: dict[int, deque[tuple[float, TokenisedRequest]]] = {}  # of a user, by the request on its way
        self._agenda: list[tuple[float, int, TokenisedRequest]] = []
        self._num_noted = 0
        self.last_begun_s = 0.0  # when the last request that follows no other was sent: then the crowd thins out
        if rate is not None:
            moments = arrivals(len(traffic.requests), rate, seed=seed)
            for moment_s, request in zip(moments, traffic.requests, strict=True):
                self._note(moment_s, request)
            self.last_begun_s = moments[-1]
            return
        roots = [one for one in traffic.requests if one.asked.after is None]
        for request in traffic.requests:
            if request.asked.after is not None:
                self._turns.setdefault(request.asked.after, []).append(request)
        self._waiting = deque(roots)
        if users is None:
            for root in roots:
                self._note(root.asked.arrival_s or 0.0, root)
        else:
            for _ in range(min(users, len(roots))):
                self._next(0.0, deque())

    def next_s(self) -> float | None:
        """When the next request is due; None where all wait for answers, or are over."""
        return self._agenda[0][0] if self._agenda else None

    def due(self, now: float) -> Iterator[Due]:
        """What is due until now."""
        while self._agenda and self._agenda[0][0] <= now:
            moment_s, _, request = heapq.heappop(self._agenda)
            yield Due(moment_s, request)

    def ended(self, request: TokenisedRequest, now: float, *, goes_on: bool = True) -> None:
        """The request is over; `goes_on`: what follows it is asked."""
        following = self._turns.get(request.asked.index, []) if goes_on else []
        turns = [(now + max(turn.asked.think_s, REACTION_S), turn) for turn in following]
        if not self._is_closed:
            for moment_s, turn in turns:
                self._note(max(moment_s, turn.asked.arrival_s or 0.0), turn)
            return
        begun = self._begun.pop(request.asked.index)
        begun.extend(turns)
        self._next(now + REACTION_S, begun)

    def _next(self, free_s: float, begun: deque[tuple[float, TokenisedRequest]]) -> None:
        """A user who is free goes on with what was begun, or begins another dialogue."""
        if begun:
            moment_s, request = begun.popleft()
        elif self._waiting:
            request = self._waiting.popleft()
            moment_s = free_s + request.asked.think_s
        else:
            return
        self._begun[request.asked.index] = begun
        self._note(max(free_s, moment_s), request)

    def _note(self, moment_s: float, request: TokenisedRequest) -> None:
        self._num_noted += 1
        if request.asked.after is None:
            self.last_begun_s = max(self.last_begun_s, moment_s)
        heapq.heappush(self._agenda, (moment_s, self._num_noted, request))
