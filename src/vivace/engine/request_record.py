"""What the engine keeps of a request while it is there, and how it accounts for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vivace.core.account import RequestAccount
from vivace.core.events import RequestTimings, TokenLogprobs
from vivace.core.sequence import Sequence
from vivace.engine.logits import LogitsReader
from vivace.engine.pooling import PooledStates
from vivace.engine.stats import EngineStats
from vivace.schedule import Scheduler
from vivace.speculate.speculation import Speculation

if TYPE_CHECKING:
    from vivace.engine.structured_output import CompiledConstraint


@dataclass(frozen=True, slots=True)
class StepMark:
    """Where the engine's counters stood."""

    num_steps: int
    num_rows: int
    choices: Counter[str]

    @classmethod
    def of(cls, stats: EngineStats, speculation: Speculation | None) -> StepMark:
        choices = Counter[str]() if speculation is None else Counter(speculation.stats.num_choices)
        return cls(stats.num_steps, stats.num_computed_tokens, choices)


@dataclass(slots=True)
class RequestRecord:
    """What the engine keeps of a request until `forget`."""

    timings: RequestTimings
    sequences: list[Sequence] = field(default_factory=list)
    num_unfinished: int = 0
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    constraint: CompiledConstraint | None = None  # of every continuation
    compiled: float | None = None  # when that was there
    pooled: PooledStates | None = None
    embedding: list[float] | None = None  # of float32 values, not normalised; there before the last event
    logits: LogitsReader | None = None
    admission: StepMark | None = None

    @property
    def num_cached_tokens(self) -> int:
        return self.sequences[0].num_cached

    def account(self, scheduler: Scheduler, now: StepMark) -> RequestAccount:
        """So far; `now` is where the counters stand."""
        first = self.sequences[0]
        history, timings, since = first.history, self.timings, self.admission or now
        histories = [one.history for one in self.sequences]
        return RequestAccount(
            arrival=timings.arrival,
            num_prompt=first.num_prompt,
            num_output=sum(one.num_output for one in self.sequences),
            num_cached=first.num_cached,
            compiled=self.compiled,
            admitted=timings.admitted,
            first_token=timings.first_token,
            finished=timings.finished,
            miss=history.miss,
            num_prefix_waits=history.num_prefix_waits,
            obstacles=scheduler.obstacles(first),
            chunks=history.chunks,
            num_chunks=history.num_chunks,
            preemptions=[entry for one in histories for entry in one.preemptions],
            num_preemptions=sum(one.num_preemptions for one in self.sequences),
            num_steps=now.num_steps - since.num_steps,
            num_rows=now.num_rows - since.num_rows,
            num_guessed=sum(one.num_guessed for one in histories),
            num_accepted=sum(one.num_accepted for one in histories),
            choices=dict(now.choices - since.choices),
        )
