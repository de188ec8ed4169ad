"""From the records of a run to a candidate's figures: percentiles without their intervals, which repetitions give.

A run's own bootstrap takes a third as long as the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vivace.bench.latency import Latency
from vivace.bench.percentiles import percentiles
from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Rates count every token that came, from the first request's due moment to the last one's end; latencies (ms)
    are those of requests that were answered whole."""

    tokens_per_s: float
    requests_per_s: float
    ttft_ms: float
    ttft_p95_ms: float
    tpot_ms: float
    itl_p95_ms: float
    e2el_mean_ms: float
    prefix_hit_rate: float
    good_share: float | None
    good_per_s: float | None
    num_failed: int


def run_figures(records: Sequence[RequestRecord], slo: SLO | None = None) -> RunFigures | None:
    """None where no request was answered. Requests that were cancelled count for rates alone."""
    answered = [Latency.of(record) for record in records if record.status == "ok"]
    first_s = [one.ttft_ms for one in answered if one.ttft_ms is not None]
    if not first_s:
        return None
    seconds = max(record.ended_s for record in records) - min(record.intended_s for record in records)
    num_good = 0 if slo is None else sum(one.keeps(slo) for one in answered)
    num_stayed = sum(record.status != "cancelled" for record in records)
    cached = sum(record.num_cached_tokens or 0 for record in records)
    return RunFigures(
        tokens_per_s=sum(record.output_len for record in records) / seconds,
        requests_per_s=len(answered) / seconds,
        ttft_ms=_percentile(first_s, 0.50),
        ttft_p95_ms=_percentile(first_s, 0.95),
        tpot_ms=_percentile([one.tpot_ms for one in answered if one.tpot_ms is not None], 0.50),
        itl_p95_ms=_percentile([gap for one in answered for gap in one.gaps_ms], 0.95),
        e2el_mean_ms=sum(one.e2el_ms for one in answered) / len(answered),
        prefix_hit_rate=cached / max(1, sum(record.prompt_len for record in records)),
        good_share=None if slo is None else num_good / num_stayed,
        good_per_s=None if slo is None else num_good / seconds,
        num_failed=sum(record.status in ("error", "refused") for record in records),
    )


def _percentile(values: Sequence[float], share: float) -> float:
    """0 without values."""
    return next(iter(percentiles(values, (share,))), 0.0)
