"""What the engine can tell of one request: the facts behind "why did it take so long?"."""

from __future__ import annotations

from dataclasses import dataclass, field

from vivace.core.history import Chunk, Preemption, PrefixMiss


@dataclass(slots=True)
class RequestAccount:
    """Times are seconds on the machine's monotonic clock, None until it happened; `compiled`: its constraint was.

    Counts are of all continuations, waits and chunks of the first, which computes the prompt for all of them.
    `num_steps` and `num_rows` (tokens that went through the model, of all requests) count from its admission; so
    does `choices`, steps by what the rule of speculation chose.
    """

    arrival: float
    num_prompt: int
    num_output: int
    num_cached: int
    compiled: float | None = None
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None
    miss: PrefixMiss | None = None
    num_prefix_waits: int = 0
    obstacles: dict[str, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    num_chunks: int = 0
    preemptions: list[Preemption] = field(default_factory=list)
    num_preemptions: int = 0
    num_steps: int = 0
    num_rows: int = 0
    num_guessed: int = 0
    num_accepted: int = 0
    choices: dict[str, int] = field(default_factory=dict)
