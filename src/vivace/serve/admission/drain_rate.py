"""How fast the engine works its queue off: the price in seconds of a prompt token and of a generated one."""

from __future__ import annotations

from collections.abc import Callable

from vivace.serve.admission.demand import Demand
from vivace.serve.admission.limits import AdmissionLimits, EngineState

SAMPLE_S = 0.5  # busy time between two samples: several steps of a fast engine, the noise of one is averaged out
LEARNING_RATE = 0.3
MAX_SURPRISE = 2.0  # a stall (a restart, a laptop's sleep) counts for no more than this many expected durations


class DrainRate:
    """Learns `seconds = prompt_s * prompt tokens + generation_s * generated tokens` from busy time only.

    A normalised least-mean-squares filter in relative coordinates: each price moves by its own share of the error,
    so both stay positive and neither needs to be known alone. An idle engine says nothing, however long.
    Prices are those of the batch that ran: at low load they are too high, which refuses too much for the second or
    two in which an overload begins (the engine is full then, nothing is lost), never too little.
    """

    def __init__(self, limits: AdmissionLimits, state: Callable[[], EngineState], clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        self._prompt_s = limits.initial_prompt_s
        self._generation_s = limits.initial_generation_s
        self._last = state()
        self._since: float | None = None  # when the busy time began that is not yet in `_busy_s`
        self._busy_s = 0.0

    @property
    def prompt_tokens_per_s(self) -> float:
        return 1.0 / self._prompt_s

    @property
    def generation_tokens_per_s(self) -> float:
        return 1.0 / self._generation_s

    def seconds(self, demand: Demand) -> float:
        """How long the engine takes for it, beside what it usually has."""
        return demand.computed_tokens * self._prompt_s + demand.new_tokens * self._generation_s

    def prompt_seconds(self, num_tokens: float) -> float:
        return num_tokens * self._prompt_s

    def started(self) -> None:
        """The engine has work from now on."""
        if self._since is None:
            self._since = self._clock()

    def stopped(self) -> None:
        """The engine has no work any more."""
        self.observe()
        if self._since is not None:
            self._busy_s += self._clock() - self._since
            self._since = None

    def observe(self) -> None:
        """Take a sample if it is time for one. Cheap: to be called with every event."""
        if self._since is None:
            return
        now = self._clock()
        busy_s = self._busy_s + now - self._since
        if busy_s < SAMPLE_S:
            return
        state = self._state()
        generated = state.num_generation_tokens - self._last.num_generation_tokens
        prompt = max(state.num_computed_tokens - self._last.num_computed_tokens - generated, 0)
        if prompt or generated:  # none: in the middle of a long step
            self._last, self._since, self._busy_s = state, now, 0.0
            self._learn(prompt, generated, busy_s)

    def _learn(self, prompt: int, generated: int, busy_s: float) -> None:
        prompt_share, generation_share = prompt * self._prompt_s, generated * self._generation_s
        expected = prompt_share + generation_share
        error = min(busy_s - expected, MAX_SURPRISE * expected)
        step = LEARNING_RATE * error / (prompt_share**2 + generation_share**2)
        self._prompt_s *= 1.0 + step * prompt_share
        self._generation_s *= 1.0 + step * generation_share
