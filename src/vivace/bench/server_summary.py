"""The server's side of a run, from samples of it. None where it does not tell.

Counters carry the names of vLLM's metrics without a prefix, whoever the server is (`bench/load/scrape.py`
translates), and `energy_joules_total`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from vivace.bench.records import RequestRecord, ServerSample


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """What a server's memory holds, in bytes, as it tells."""

    weights_bytes: float | None = None
    kv_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class ServerSummary:
    """Means and peaks over the samples, rises of the counters from the first to the last."""

    running_mean: float | None
    running_max: float | None
    waiting_mean: float | None
    waiting_max: float | None
    kv_usage_mean: float | None
    kv_usage_max: float | None
    prefix_hit_rate: float | None  # share of prompt tokens that the prefix cache held
    acceptance: float | None  # share of guessed tokens that stood
    num_preemptions: float | None
    resident_bytes: float | None  # when the run began
    peak_resident_bytes: float | None
    weights_bytes: float | None
    kv_bytes: float | None
    other_bytes: float | None  # of the peak, beside weights and KV cache
    energy_joules: float | None
    joules_per_output_token: float | None
    num_samples: int

    def record(self) -> dict[str, object]:
        return asdict(self)


def summarise_server(
    records: Sequence[RequestRecord], samples: Sequence[ServerSample], memory: MemoryParts | None = None
) -> ServerSummary:
    """Of one run. The prefix hit rate is the records' own where they have one, else the counters'."""
    rises = counter_rises(samples)
    resident = _told(sample.resident_bytes for sample in samples)
    running = _told(sample.num_running for sample in samples)
    waiting = _told(sample.num_waiting for sample in samples)
    kv_usage = _told(sample.kv_usage for sample in samples)
    parts = memory or MemoryParts()
    known = (parts.weights_bytes or 0.0) + (parts.kv_bytes or 0.0)
    peak = max(resident, default=None)
    energy = rises.get("energy_joules_total")
    num_tokens = sum(record.output_len for record in records)
    return ServerSummary(
        running_mean=fmean(running) if running else None,
        running_max=max(running, default=None),
        waiting_mean=fmean(waiting) if waiting else None,
        waiting_max=max(waiting, default=None),
        kv_usage_mean=fmean(kv_usage) if kv_usage else None,
        kv_usage_max=max(kv_usage, default=None),
        prefix_hit_rate=_prefix_hit_rate(records, rises),
        acceptance=_ratio(rises, "spec_decode_num_accepted_tokens_total", "spec_decode_num_draft_tokens_total"),
        num_preemptions=rises.get("num_preemptions_total"),
        resident_bytes=resident[0] if resident else None,
        peak_resident_bytes=peak,
        weights_bytes=parts.weights_bytes,
        kv_bytes=parts.kv_bytes,
        other_bytes=max(peak - known, 0.0) if peak is not None and known else None,
        energy_joules=energy,
        joules_per_output_token=energy / num_tokens if energy is not None and num_tokens else None,
        num_samples=len(samples),
    )


def counter_rises(samples: Sequence[ServerSample]) -> dict[str, float]:
    """How much each counter grew. One that fell began anew (the server started again): it counts from 0."""
    rises: dict[str, float] = {}
    last: dict[str, float] = {}
    for sample in samples:
        for name, value in sample.counters.items():
            before = last.get(name, value)
            rises[name] = rises.get(name, 0.0) + (value - before if value >= before else value)
            last[name] = value
    return rises


def _prefix_hit_rate(records: Sequence[RequestRecord], rises: dict[str, float]) -> float | None:
    told = [record for record in records if record.num_cached_tokens is not None and record.status == "ok"]
    num_prompt_tokens = sum(record.prompt_len for record in told)
    if num_prompt_tokens:
        return sum(record.num_cached_tokens or 0 for record in told) / num_prompt_tokens
    return _ratio(rises, "prefix_cache_hits_total", "prefix_cache_queries_total")


def _ratio(rises: dict[str, float], part: str, whole: str) -> float | None:
    return rises[part] / rises[whole] if part in rises and rises.get(whole) else None


def _told(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
