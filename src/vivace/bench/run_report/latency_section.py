"""How long requests took: the distributions, and the table with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vivace.bench.latency import Latency
from vivace.bench.stored_result import StoredResult
from vivace.charts.axis import Axis
from vivace.charts.lines import Guide, Series, lines
from vivace.charts.numbers import compact
from vivace.charts.page import Section
from vivace.charts.table import Noted, table

NAMES = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "itl_ms": "ITL",
    "e2el_ms": "E2EL",
    "queue_ms": "Queue",
}
MEANINGS = (
    "TTFT: to the first token. TPOT: a token after the first, on average of a request. ITL: between two arrivals. "
    "E2EL: to the last token. Times count from when the traffic wanted a request sent, whether or not the load "
    "generator had a hand free. Below a figure: its 95% interval, from a bootstrap over requests."
)
_FIGURES = ("mean", "p50", "p90", "p95", "p99")
_MAX_POINTS = 200  # of a distribution: finer than the screen shows
_HALVES = (Guide(0.5, "half of them"), Guide(0.99, "99%"))


def latency_section(result: StoredResult) -> Section:
    """Empty of charts where no request was answered."""
    samples = {name: values for name, values in samples_of(result.latencies).items() if len(values) > 1}
    shortest = min((min(values) for name, values in samples.items() if name != "queue_ms"), default=1.0)
    series = [Series(NAMES[name], distribution_points(one, shortest), steps=True) for name, one in samples.items()]
    chart = lines(
        "How many were done within a time",
        series,
        x=Axis("Time", "ms", log=True),
        y=Axis("Share", share=True, low=0, high=1),
        guides=_HALVES,
    )
    return Section("Latency", (chart if series else "") + latency_table(result.summary), lead=_lead(result))


def samples_of(latencies: Sequence[Latency]) -> dict[str, list[float]]:
    """The samples of each measure, in milliseconds; a queue that nobody waited in is left out."""
    queue = [one.queue_ms for one in latencies if one.queue_ms is not None]
    return {
        "ttft_ms": [one.ttft_ms for one in latencies if one.ttft_ms is not None],
        "tpot_ms": [one.tpot_ms for one in latencies if one.tpot_ms is not None],
        "itl_ms": [gap for one in latencies for gap in one.gaps_ms],
        "e2el_ms": [one.e2el_ms for one in latencies],
        "queue_ms": queue if max(queue, default=0.0) >= 1.0 else [],
    }


def distribution_points(values: Sequence[float], shortest: float = 1e-3) -> list[tuple[float, float]]:
    """The share of values up to each value (the empirical distribution function). A logarithmic axis has no place for
    those who did not wait at all: they count as `shortest`."""
    ordered = np.maximum(np.sort(np.asarray(values, dtype=np.float64)), max(shortest, 1e-3))
    indices = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _MAX_POINTS)).round().astype(int))
    return [(float(ordered[index]), (int(index) + 1) / len(ordered)) for index in indices]


def latency_table(summary: Mapping[str, Any]) -> str:
    """Every measure with its percentiles and their intervals."""
    rows = []
    for name, label in NAMES.items():
        one = summary.get(name)
        if isinstance(one, Mapping):
            cells = [_figure(one, figure) for figure in _FIGURES]
            rows.append([label, *cells, compact(float(one["max"])), f"{one['count']:,}"])
    headers = ["", *_FIGURES, "max", "samples"]
    return table(headers, rows, caption="Milliseconds", notes=MEANINGS) if rows else ""


def interval_words(one: Mapping[str, Any], figure: str) -> str:
    """`12.1 – 12.9`, or nothing where the sample cannot tell."""
    low, high = one.get("interval", {}).get(figure, (None, None))
    return "" if low is None or high is None else f"{compact(low)} – {compact(high)}"


def _figure(one: Mapping[str, Any], figure: str) -> Noted:
    return Noted(compact(float(one[figure])), interval_words(one, figure))


def _lead(result: StoredResult) -> str:
    num_ok, total = len(result.latencies), len(result.records)
    return f"Of the {num_ok} requests that were answered" + (f", of {total}." if total != num_ok else ".")
