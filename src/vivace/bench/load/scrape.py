"""What servers tell of themselves at /metrics, under one set of names: those of `ServerSample` and, for counters,
vLLM's without its prefix."""

from __future__ import annotations

from collections.abc import Mapping

from vivace.bench.load.exposition import totals
from vivace.bench.records import ServerSample
from vivace.bench.server_summary import MemoryParts

RUNNING = (
    "vivace:num_requests_running",
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
    "tgi_batch_current_size",
    "trtllm_num_requests_running",
)
WAITING = (
    "vivace:num_requests_waiting",
    "vllm:num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
    "tgi_queue_size",
    "trtllm_num_requests_waiting",
)
KV_USAGE = (
    "vivace:kv_cache_usage_perc",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "sglang:token_usage",
    "llamacpp:kv_cache_usage_ratio",
    "trtllm_kv_cache_utilization",
)
COUNTERS = {
    "prompt_tokens_total": (
        "vivace:prompt_tokens_total",
        "vllm:prompt_tokens_total",
        "sglang:prompt_tokens_total",
        "llamacpp:prompt_tokens_total",
        "tgi_request_input_length_sum",
    ),
    "generation_tokens_total": (
        "vivace:generation_tokens_total",
        "vllm:generation_tokens_total",
        "sglang:generation_tokens_total",
        "llamacpp:tokens_predicted_total",
        "tgi_request_generated_tokens_sum",
    ),
    "num_preemptions_total": ("vivace:num_preemptions_total", "vllm:num_preemptions_total"),
    "prefix_cache_queries_total": (
        "vivace:prefix_cache_queries_total",
        "vllm:prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries_total",
    ),
    "prefix_cache_hits_total": (
        "vivace:prefix_cache_hits_total",
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
    ),
    "spec_decode_num_drafts_total": ("vivace:spec_decode_num_drafts_total", "vllm:spec_decode_num_drafts_total"),
    "spec_decode_num_draft_tokens_total": (
        "vivace:spec_decode_num_draft_tokens_total",
        "vllm:spec_decode_num_draft_tokens_total",
    ),
    "spec_decode_num_accepted_tokens_total": (
        "vivace:spec_decode_num_accepted_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_total",
    ),
    "engine_steps_total": ("vivace:engine_steps_total",),
    "engine_restarts_total": ("vivace:engine_restarts_total",),
}


def server_sample(
    text: str, time_s: float, resident_bytes: float | None, energy: Mapping[str, float]
) -> ServerSample:
    """One moment of the server: its metrics, its memory as the system sees it, and counters of energy."""
    values = totals(text)
    counters = {name: value for name, names in COUNTERS.items() if (value := _first(values, names)) is not None}
    return ServerSample(
        time_s=time_s,
        num_running=_first(values, RUNNING),
        num_waiting=_first(values, WAITING),
        kv_usage=_first(values, KV_USAGE),
        resident_bytes=resident_bytes,
        counters={**counters, **energy},
    )


def memory_parts(text: str) -> MemoryParts:
    """Of a Vivace server; others do not tell."""
    values = totals(text)
    return MemoryParts(values.get("vivace:weight_bytes"), values.get("vivace:kv_cache_bytes"))


def _first(values: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((values[name] for name in names if name in values), None)
