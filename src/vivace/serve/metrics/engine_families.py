"""The engine's state and totals as metric families."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from vivace.serve.metrics.families import Family, Labels, counter, counters, gauge


class EngineFacts(Protocol):
    """What does not change while the engine stands; the worker's `EngineInfo` is one."""

    @property
    def block_size(self) -> int: ...
    @property
    def num_kv_blocks(self) -> int: ...
    @property
    def kv_cache_dtype(self) -> str: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...


class EngineNumbers(Protocol):
    """As of the last step; the worker's `EngineGauges` is one."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_used_blocks(self) -> int: ...
    @property
    def num_cached_blocks(self) -> int: ...
    @property
    def num_free_blocks(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def num_generation_tokens(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_prefix_queries(self) -> int: ...
    @property
    def num_prefix_hits(self) -> int: ...
    @property
    def last_step_s(self) -> float: ...
    @property
    def num_restarts(self) -> int: ...
    @property
    def num_drafts(self) -> int: ...
    @property
    def num_draft_tokens(self) -> int: ...
    @property
    def num_accepted_tokens(self) -> int: ...
    @property
    def num_accepted_by_position(self) -> Sequence[int]: ...
    @property
    def speculation_choices(self) -> Mapping[str, int]: ...
    @property
    def speculation_gain(self) -> float: ...


class Engine(Protocol):
    """The worker's `EngineClient`, as far as metrics look at it."""

    @property
    def info(self) -> EngineFacts: ...
    @property
    def gauges(self) -> EngineNumbers: ...
    @property
    def state(self) -> str: ...
    @property
    def engine_pid(self) -> int | None: ...


def engine_families(engine: Engine, labels: Labels, num_queued: int) -> Iterator[Family]:
    """`num_queued` requests wait in the front; they count as waiting, wherever dashboards and gateways look."""
    facts, now = engine.info, engine.gauges
    yield gauge("num_requests_running", "Sequences in the engine's batch.", labels, now.num_running)
    yield gauge("num_requests_waiting", "Requests that wait for it.", labels, now.num_waiting + num_queued)
    used = now.num_used_blocks / facts.num_kv_blocks
    yield gauge("kv_cache_usage_perc", "Share of the KV blocks that sequences use, 0 to 1.", labels, used)
    yield gauge("kv_cache_num_blocks", "KV blocks in all.", labels, facts.num_kv_blocks)
    yield gauge("kv_cache_block_size", "Tokens that one KV block holds.", labels, facts.block_size)
    yield gauge(
        "kv_cache_num_cached_blocks", "Unused KV blocks whose content is kept.", labels, now.num_cached_blocks
    )
    yield gauge("kv_cache_num_free_blocks", "KV blocks without content.", labels, now.num_free_blocks)
    yield gauge("max_model_len", "Tokens of the context window.", labels, facts.max_model_len)
    yield gauge("max_num_seqs", "Sequences that the engine runs at once.", labels, facts.max_num_seqs)
    yield gauge("weight_bytes", "Memory of the weights.", labels, facts.weight_bytes)
    kv_bytes = facts.num_kv_blocks * facts.block_size * facts.kv_bytes_per_token
    yield gauge("kv_cache_bytes", "Memory of the KV cache.", labels, kv_bytes)
    yield gauge("engine_ready", "1 while the engine stands.", labels, float(engine.state == "ready"))
    yield gauge("engine_last_step_seconds", "Duration of the last step.", labels, now.last_step_s)
    yield _cache_config(facts, labels)
    yield counter("num_preemptions", "Sequences that lost their KV blocks to others.", labels, now.num_preemptions)
    yield counter("prefix_cache_queries", "Tokens looked up in the prefix cache.", labels, now.num_prefix_queries)
    yield counter("prefix_cache_hits", "Tokens of them that it held.", labels, now.num_prefix_hits)
    yield counter("engine_restarts", "Engine processes that died and were replaced.", labels, now.num_restarts)
    yield counter("engine_steps", "Steps of the engine.", labels, now.num_steps)
    yield _computed(now, labels)
    yield from _speculation(now, labels)


def _cache_config(facts: EngineFacts, labels: Labels) -> Family:
    """Gateways read size and count of the blocks from the labels of this one."""
    described = {
        "block_size": str(facts.block_size),
        "num_gpu_blocks": str(facts.num_kv_blocks),  # the field's name for it, whatever the device
        "cache_dtype": facts.kv_cache_dtype,
    }
    all_labels = Labels((*labels.names, *described), (*labels.values, *described.values()))
    return gauge("cache_config_info", "How the KV cache is laid out.", all_labels, 1.0)


def _computed(now: EngineNumbers, labels: Labels) -> Family:
    return counter(
        "engine_computed_tokens",
        "Tokens that went through the model, again included.",
        labels,
        now.num_computed_tokens,
    )


def _speculation(now: EngineNumbers, labels: Labels) -> Iterator[Family]:
    """What was guessed, what stood, and what the rule that decides it last expected."""
    yield counter("spec_decode_num_drafts", "Guesses of one or more tokens.", labels, now.num_drafts)
    yield counter("spec_decode_num_draft_tokens", "Tokens guessed.", labels, now.num_draft_tokens)
    yield counter("spec_decode_num_accepted_tokens", "Tokens of them that stood.", labels, now.num_accepted_tokens)
    yield counters(
        "spec_decode_num_accepted_tokens_per_pos",
        "Guessed tokens that stood, by their place in the guess.",
        labels,
        ("position",),
        {(str(position),): count for position, count in enumerate(now.num_accepted_by_position)},
    )
    yield counters(
        "spec_decode_choices",
        "Steps by what the rule chose: guess, plain (guessing would not pay), trial (to measure), none (no guess), "
        "rest (not asked, as asking costs as well).",
        labels,
        ("choice",),
        {(choice,): count for choice, count in now.speculation_choices.items()},
    )
    yield gauge(
        "spec_decode_expected_gain",
        "Tokens a second that guessing promises over those of a plain step, as of the rule's last choice.",
        labels,
        now.speculation_gain,
    )
