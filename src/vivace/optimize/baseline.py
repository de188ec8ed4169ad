"""A fixed load whose speed tells how fast the machine is at the moment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine

WARM_UP_S = 1.0  # pages, caches and clock speeds settle: the first rounds run at 60% of the speed of later ones
STREAMS, PROMPT, TOKENS = 4, 32, 16
LEAST_ROUNDS = 2


class Baseline:
    """Rounds of a few streams on an engine that stays. A step counts by its usual share of a round's time, so that a
    few steps tell as much as a whole round."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._clock = engine, clock
        self._num_rounds = 0
        self._place = 0  # of the next step in its round
        self._shares = self._warm_up()

    def beat(self, seconds: float) -> float:
        """Tokens a second over at least one step and so many seconds."""
        started, rounds = self._clock(), 0.0
        while rounds == 0.0 or self._clock() - started < seconds:
            rounds += self._shares[self._step()]
        return STREAMS * (PROMPT + TOKENS) * rounds / (self._clock() - started)

    def _warm_up(self) -> list[float]:
        """Each step's share of a round's time: medians over rounds."""
        durations: list[list[float]] = [[] for _ in range(TOKENS)]
        started = self._clock()
        while len(durations[-1]) < LEAST_ROUNDS or self._clock() - started < WARM_UP_S:
            began = self._clock()
            durations[self._step()].append(self._clock() - began)
        while self._place:
            self._step()
        usual = [statistics.median(times) for times in durations]
        return [time_s / sum(usual) for time_s in usual]

    def _step(self) -> int:
        """One of the engine's steps; its place in the round."""
        if not self._engine.num_unfinished:
            self._begin_round()
        place = self._place
        for event in self._engine.step():
            if event.finish is not None:
                self._engine.forget(event.request_id)
        self._place = (place + 1) % TOKENS if self._engine.num_unfinished else 0
        return place

    def _begin_round(self) -> None:
        params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        for stream in range(STREAMS):
            prompt = [(stream + place) % 97 + 1 for place in range(PROMPT)]
            self._engine.add(f"pulse {self._num_rounds} {stream}", prompt, params)
        self._num_rounds += 1
