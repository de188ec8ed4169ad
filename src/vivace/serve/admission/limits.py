"""The bounds of admission, and the facts of the engine that they are measured by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vivace.core.errors import ConfigError

DEFAULT_QUEUED_TOKENS = 1 << 20  # 8 MB of token ids

# Weight bytes x tokens a second in large batches: a 1B model with int4 weights (0.75 GB) computes 400 prompt tokens
# and generates 320 at best on two cores (its arithmetic peak).
PROMPT_BYTES_PER_S = 3e11
GENERATION_BYTES_PER_S = 2.4e11


class EngineCapacity(Protocol):
    """What the engine can hold; the worker's `EngineInfo` is one."""

    @property
    def max_model_len(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def max_num_batched_tokens(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def num_kv_blocks(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...


class EngineState(Protocol):
    """Where the engine stands; the worker's `EngineGauges` is one. Totals never fall."""

    @property
    def num_cached_blocks(self) -> int: ...
    @property
    def num_free_blocks(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def num_generation_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class UnknownState:
    """Of an engine that tells nothing: the default rates stay."""

    num_free_blocks: int
    num_cached_blocks: int = 0
    num_computed_tokens: int = 0
    num_generation_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on what waits. The first waiting request is let in whatever its size, or it never could be served.

    `max_queue_s` bounds the predicted wait for a turn; a turn that did not come within 1.2 times as long is refused.
    `max_worst_case_pools` bounds the KV blocks that everything admitted could come to need, in multiples of the pool:
    far above 1, because most requests end long before their `max_tokens`.
    One level of priority is worth `aging_s` seconds of waiting: nobody starves.
    The default rates stand in until the engine's own have been measured; None: from the size of the weights, as the
    reference machine would serve them at its best. Too high on purpose: a burst on a fresh server is let in, and what
    comes too late is refused then.
    """

    engine: EngineCapacity
    max_queued_requests: int = 1024
    max_queued_tokens: int | None = None  # of prompts; None: a million
    max_worst_case_pools: float = 64.0
    max_queue_s: float = 10.0
    aging_s: float = 2.5
    default_prompt_tokens_per_s: float | None = None
    default_generation_tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in (
            "max_queued_requests",
            "max_queued_tokens",
            "max_worst_case_pools",
            "max_queue_s",
            "aging_s",
            "default_prompt_tokens_per_s",
            "default_generation_tokens_per_s",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be more than 0, not {value!r}")

    @property
    def queued_tokens_bound(self) -> int:
        return self.max_queued_tokens or DEFAULT_QUEUED_TOKENS

    @property
    def initial_prompt_s(self) -> float:
        """Seconds that a prompt token is thought to take before one was measured."""
        return 1.0 / (self.default_prompt_tokens_per_s or PROMPT_BYTES_PER_S / self.engine.weight_bytes)

    @property
    def initial_generation_s(self) -> float:
        return 1.0 / (self.default_generation_tokens_per_s or GENERATION_BYTES_PER_S / self.engine.weight_bytes)
