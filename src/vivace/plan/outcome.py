"""What simulated traffic felt like: percentiles, throughput, how many requests kept their objectives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vivace.bench.latency import Latency
from vivace.bench.percentiles import percentiles
from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO
from vivace.bench.statistics import SHARES
from vivace.plan.deployment import Binding
from vivace.plan.simulation import Totals

FEWEST_COUNTED = 16  # requests in the window; with fewer all count
SHORTEST = 0.1  # of the whole play: what comes out in less tells no rate
FULL = 0.97  # of the KV blocks: from here on requests wait for memory
WAITING_SHARE = 0.5  # of a request's time: more of it in the queue, and the queue is what binds


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds, as `percentiles` defines them."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles | None:
        """None without values."""
        known = list(values)
        return cls(sum(known) / len(known), *percentiles(known, list(SHARES.values()))) if known else None


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a play that counts: requests that were due in it, and tokens that came out in it."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One play. Latencies are those of answered requests; `num_waiting`: requests that nobody had begun at the end
    of the window. `good_share` of the requests kept all objectives, None without any."""

    num_requests: int
    num_refused: int
    num_waiting: int
    duration_s: float
    ttft_ms: Percentiles | None
    itl_ms: Percentiles | None
    tpot_ms: Percentiles | None
    e2el_ms: Percentiles | None
    queue_ms: Percentiles | None
    requests_per_s: float
    tokens_per_s: float
    good_share: float | None
    goodput_per_s: float | None
    running: float
    busy_share: float
    kv_usage: float
    num_preemptions: int
    cached_share: float
    binds: Binding

    @property
    def keeps_up(self) -> bool:
        """Whether the queue stayed short while requests came."""
        return self.num_waiting <= max(3.0, 0.05 * self.num_requests)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def outcome(
    records: Sequence[RequestRecord], totals: Totals, slo: SLO | None = None, window: Window | None = None
) -> Outcome:
    """Of the requests that were due in the window; None: of all."""
    end_s = max((one.ended_s for one in records), default=0.0)
    whole = Window(min((one.intended_s for one in records), default=0.0), end_s)
    counted = list(records) if window is None else [one for one in records if _is_in(one, window)]
    if window is None or len(counted) < FEWEST_COUNTED or _length(window) < SHORTEST * _length(whole):
        window, counted = whole, list(records)
    duration_s = _length(window)
    latencies = [Latency.of(one) for one in counted if one.status == "ok"]
    num_good = None if slo is None else sum(one.keeps(slo) for one in latencies)
    num_stayed = sum(one.status != "cancelled" for one in counted)
    ends = [one.ended_s for one in records if one.status == "ok" and window.start_s <= one.ended_s <= window.end_s]
    queue = Percentiles.of(one.queue_ms for one in latencies if one.queue_ms is not None)
    e2el = Percentiles.of(one.e2el_ms for one in latencies)
    return Outcome(
        num_requests=len(counted),
        num_refused=sum(one.status == "refused" for one in counted),
        num_waiting=sum(_waits(one, window.end_s) for one in records),
        duration_s=duration_s,
        ttft_ms=Percentiles.of(one.ttft_ms for one in latencies if one.ttft_ms is not None),
        itl_ms=Percentiles.of(gap for one in latencies for gap in one.gaps_ms),
        tpot_ms=Percentiles.of(one.tpot_ms for one in latencies if one.tpot_ms is not None),
        e2el_ms=e2el,
        queue_ms=queue,
        requests_per_s=len(ends) / duration_s,
        tokens_per_s=_tokens_in(records, window) / duration_s,
        good_share=None if num_good is None or not num_stayed else num_good / num_stayed,
        goodput_per_s=None if num_good is None else num_good / duration_s,
        running=totals.running_s / max(totals.busy_s, 1e-9),
        busy_share=min(1.0, totals.busy_s / max(end_s, 1e-9)),
        kv_usage=totals.kv_usage_s / max(totals.busy_s, 1e-9),
        num_preemptions=totals.num_preemptions,
        cached_share=totals.num_cached_tokens / max(1, totals.num_prompt_tokens),
        binds=_binding(totals, queue, e2el),
    )


def _length(window: Window) -> float:
    return max(window.end_s - window.start_s, 1e-9)


def _is_in(record: RequestRecord, window: Window) -> bool:
    return window.start_s <= record.intended_s <= window.end_s


def _waits(record: RequestRecord, moment_s: float) -> bool:
    begun_s = record.ended_s if record.queue_s is None else record.intended_s + record.queue_s
    return record.intended_s < moment_s < begun_s


def _tokens_in(records: Sequence[RequestRecord], window: Window) -> int:
    """Tokens that came out in the window."""
    moments = np.concatenate([np.asarray(one.token_s) for one in records]) if records else np.empty(0)
    return int(np.count_nonzero((moments >= window.start_s) & (moments <= window.end_s)))


def _binding(totals: Totals, queue: Percentiles | None, e2el: Percentiles | None) -> Binding:
    waits = queue is not None and e2el is not None and queue.mean > WAITING_SHARE * e2el.mean
    if totals.num_preemptions or (waits and totals.kv_usage_s > FULL * totals.busy_s):
        return "memory"
    if waits:
        return "queueing"
    parts: dict[Binding, float] = {
        "bandwidth": totals.bandwidth_s,
        "arithmetic": totals.arithmetic_s,
        "overhead": totals.overhead_s,
    }
    return max(parts, key=lambda name: parts[name])
