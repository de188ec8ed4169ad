"""What the front knows of the engine in the other process: fixed facts, and numbers as of its last step."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest

import msgspec

from vivace.core.config import Choice
from vivace.core.sampling_defaults import SamplingDefaults


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
    sampling_defaults: SamplingDefaults = SamplingDefaults()  # of requests that do not say


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
    num_drafts: int = 0  # of guessed tokens: one a sequence and step
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_by_position: tuple[int, ...] = ()
    speculation_choices: dict[str, int] = {}  # steps by what the rule chose: guess, plain, trial, none, rest
    speculation_gain: float = 1.0  # tokens a second that guessing promises over those of a plain step
    num_decode_rows: int = 0  # of the computed tokens, one for each sequence past its prompt
    speculation_verdict: str = ""  # what the rule chose of late, and why; the log's


_TOTALS = (
    "num_steps",
    "num_prompt_tokens",
    "num_generation_tokens",
    "num_computed_tokens",
    "num_preemptions",
    "num_prefix_queries",
    "num_prefix_hits",
    "num_drafts",
    "num_draft_tokens",
    "num_accepted_tokens",
    "num_decode_rows",
)


def carried_over(gauges: EngineGauges) -> EngineGauges:
    """The totals that a new engine begins with: those of the dead one, whose blocks and sequences are gone."""
    totals = {name: getattr(gauges, name) for name in (*_TOTALS, "num_accepted_by_position", "speculation_choices")}
    return EngineGauges(**totals, num_restarts=gauges.num_restarts + 1)


def added(base: EngineGauges, current: EngineGauges) -> EngineGauges:
    """The state of `current` with the totals of both."""
    totals = {name: getattr(base, name) + getattr(current, name) for name in _TOTALS}
    by_position = zip_longest(base.num_accepted_by_position, current.num_accepted_by_position, fillvalue=0)
    return msgspec.structs.replace(
        current,
        **totals,
        num_restarts=base.num_restarts,
        num_accepted_by_position=tuple(map(sum, by_position)),
        speculation_choices=dict(Counter(base.speculation_choices) + Counter(current.speculation_choices)),
    )
