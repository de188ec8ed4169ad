"""What the front knows of the engine in the other process: fixed facts, and numbers as of its last step."""

from __future__ import annotations

import msgspec

from vivace.core.config import Choice


class EngineInfo(msgspec.Struct, frozen=True, array_like=True):
    """What was loaded and decided. `choices` gives the reasons."""

    vocab_size: int
    hidden_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int  # tokens
    num_kv_blocks: int
    kv_cache_dtype: str
    kv_bytes_per_token: int
    weight_bytes: int
    eos_ids: tuple[int, ...]
    choices: tuple[Choice, ...]


class EngineGauges(msgspec.Struct, frozen=True, array_like=True):
    """State after the last step, then totals since the front started (over all restarts), then the step's seconds."""

    num_running: int = 0  # sequences
    num_waiting: int = 0
    num_used_blocks: int = 0
    num_cached_blocks: int = 0  # used by nobody, content kept
    num_free_blocks: int = 0
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    num_computed_tokens: int = 0  # rows that went through the model, recomputation included
    num_preemptions: int = 0
    num_prefix_queries: int = 0  # tokens looked up in the prefix cache
    num_prefix_hits: int = 0  # tokens of them found
    last_step_s: float = 0.0
    num_restarts: int = 0


_TOTALS = (
    "num_steps",
    "num_prompt_tokens",
    "num_generation_tokens",
    "num_computed_tokens",
    "num_preemptions",
    "num_prefix_queries",
    "num_prefix_hits",
)


def carried_over(gauges: EngineGauges) -> EngineGauges:
    """The totals that a new engine begins with: those of the dead one, whose blocks and sequences are gone."""
    totals = {name: getattr(gauges, name) for name in _TOTALS}
    return EngineGauges(**totals, num_restarts=gauges.num_restarts + 1)


def added(base: EngineGauges, current: EngineGauges) -> EngineGauges:
    """The state of `current` with the totals of both."""
    totals = {name: getattr(base, name) + getattr(current, name) for name in _TOTALS}
    return msgspec.structs.replace(current, **totals, num_restarts=base.num_restarts)
