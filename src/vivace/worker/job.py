"""What the front asks of the engine's process: one request, tokenised, with its seed."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling


@dataclass(frozen=True, slots=True)
class Job:
    """One request. `request_id` is unique; the seed is given, so that a restarted engine draws the same numbers.

    With `pooling` no token is generated: the stream ends with one event and carries the embedding.
    """

    request_id: str
    prompt: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: bytes = b""
    pooling: Pooling | None = None
