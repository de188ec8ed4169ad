"""Counts and latencies of requests, taken where their tokens pass."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from vivace.serve.metrics.event_loop_lag import EventLoopLag
from vivace.serve.metrics.histogram import LATENCY_S, TOKEN_LATENCY_S, TOKENS, Histogram
from vivace.serve.metrics.http_metrics import HttpMetrics

FINISH_REASONS = ("stop", "length", "abort", "error")


class ServerMetrics:
    """What all requests of this process add up to. No global state: one for each app."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.http = HttpMetrics(clock)
        self.event_loop = EventLoopLag()
        self.num_prompt_tokens = 0
        self.num_generation_tokens = 0
        self.finished = Counter(dict.fromkeys(FINISH_REASONS, 0))  # a rate needs the 0 before the first one
        self.queue_s = Histogram(LATENCY_S)
        self.first_token_s = Histogram(LATENCY_S)
        self.inter_token_s = Histogram(TOKEN_LATENCY_S)
        self.per_output_token_s = Histogram(TOKEN_LATENCY_S)
        self.request_s = Histogram(LATENCY_S)
        self.prompt_tokens = Histogram(TOKENS)
        self.generation_tokens = Histogram(TOKENS)

    def begin(self, arrival: float | None = None) -> RequestMetrics:
        """One request to the engine, since `arrival` (monotonic seconds; None: since now)."""
        return RequestMetrics(self, self.clock() if arrival is None else arrival)


class RequestMetrics:
    """One request on its way: `turn`, `first_token`, `tokens` …, `finished`."""

    __slots__ = ("_arrival", "_first", "_is_open", "_last", "_num_prompt_tokens", "_num_tokens", "_server")

    def __init__(self, server: ServerMetrics, arrival: float) -> None:
        self._server = server
        self._arrival = arrival
        self._first: float | None = None
        self._last = arrival
        self._num_prompt_tokens = 0
        self._num_tokens = 0
        self._is_open = True

    def turn(self) -> None:
        """It waited until now; the engine gets it."""
        self._server.queue_s.observe(self._server.clock() - self._arrival)

    def first_token(self, num_prompt_tokens: int) -> None:
        """The prompt is computed. Count the token itself with `tokens`."""
        now = self._server.clock()
        self._first = self._last = now
        self._num_prompt_tokens = num_prompt_tokens
        self._server.num_prompt_tokens += num_prompt_tokens
        self._server.first_token_s.observe(now - self._arrival)

    def tokens(self, num_tokens: int) -> None:
        """One step brought so many tokens; the gap to the step before is one inter-token latency."""
        server = self._server
        server.num_generation_tokens += num_tokens
        if self._num_tokens:
            now = server.clock()
            server.inter_token_s.observe(now - self._last)
            self._last = now
        self._num_tokens += num_tokens

    def finished(self, reason: str) -> None:
        """It ended: "stop", "length", "abort" or "error"; harmless when repeated."""
        if not self._is_open:
            return
        self._is_open = False
        server, now = self._server, self._server.clock()
        server.finished[reason] += 1
        server.request_s.observe(now - self._arrival)
        if self._first is None:
            return
        server.prompt_tokens.observe(self._num_prompt_tokens)
        server.generation_tokens.observe(self._num_tokens)
        if self._num_tokens > 1:
            server.per_output_token_s.observe((now - self._first) / (self._num_tokens - 1))
