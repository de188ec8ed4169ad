"""Two runs beside each other: ratios, and which of them are more than chance.

Requests of each run are drawn again, both runs independently, and 95% of the ratios lie within a ratio's interval; a
difference counts where 1 lies outside. Requests that stood in one queue resemble each other, so it is stretches of
n^(1/3) consecutive ones that are drawn (block bootstrap; Künsch, 1989): drawn alone they would promise too much near
saturation. For throughput, a run is cut into 20 stretches of equal length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from vivace.bench.latency import Latency
from vivace.bench.percentiles import Floats
from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO
from vivace.bench.statistics import CONFIDENCE, SHARES, resampled

NUM_STRETCHES = 20
MIN_GROUPS = 5  # requests of each run without which nothing is said about chance
_FIGURES = ("mean", *SHARES)

Verdict = Literal["better", "worse", "the same", "unknown"]
Groups = list[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two runs. `ratio` is `after` / `before`, `low` and `high` its 95% interval; None where unknown.

    `verdict`: "the same" means that chance explains the difference, "unknown" that too few requests tell.
    """

    name: str
    unit: str
    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict


def differences(
    before: Sequence[RequestRecord], after: Sequence[RequestRecord], slo: SLO | None = None, seed: int = 0
) -> list[Difference]:
    """Latencies of answered requests, throughput, the share of answered ones and of good ones under `slo`; measures
    that one of the runs does not have are left out."""
    found: list[Difference] = []
    for name, pick in _LATENCIES.items():
        samples = [_samples(records, pick) for records in (before, after)]
        if all(samples):
            found += _latency(name, samples[0], samples[1], seed)
    for name, unit, make in (
        ("output", "tokens/s", _token_rates),
        ("requests", "requests/s", _answer_rates),
        ("answered", "share", _answered),
    ):
        found += _mean(name, unit, make(before), make(after), seed)
    if slo is not None:
        found += _mean("goodput", "share", _good(before, slo), _good(after, slo), seed)
    return found


_LATENCIES: dict[str, Callable[[Latency], tuple[float, ...]]] = {
    "TTFT": lambda one: () if one.ttft_ms is None else (one.ttft_ms,),
    "TPOT": lambda one: () if one.tpot_ms is None else (one.tpot_ms,),
    "ITL": lambda one: one.gaps_ms,
    "E2EL": lambda one: (one.e2el_ms,),
    "queue": lambda one: () if one.queue_ms is None else (one.queue_ms,),
}


def _samples(records: Sequence[RequestRecord], pick: Callable[[Latency], tuple[float, ...]]) -> Groups:
    answered = sorted((one for one in records if one.status == "ok"), key=lambda one: one.intended_s)
    return [group for record in answered if (group := pick(Latency.of(record)))]


def _blocks(samples: Groups) -> Groups:
    """Consecutive requests together."""
    size = max(1, round(len(samples) ** (1 / 3)))
    return [tuple(chain.from_iterable(samples[start : start + size])) for start in range(0, len(samples), size)]


def _latency(name: str, before: Groups, after: Groups, seed: int) -> Iterator[Difference]:
    """The median and the 99th percentile; the latter only where both runs have requests beyond it."""
    known = min(len(before), len(after))
    (once, drawn), (once_after, drawn_after) = _both(_blocks(before), _blocks(after), seed)
    for figure, least in (("p50", MIN_GROUPS), ("p99", 100)):
        column = _FIGURES.index(figure)
        draws = (drawn[:, column], drawn_after[:, column]) if known >= least else None
        yield _difference(f"{name} {figure}", "ms", once[column], once_after[column], draws, lower_is_better=True)


def _mean(name: str, unit: str, before: Groups, after: Groups, seed: int) -> Iterator[Difference]:
    if not (before and after):
        return
    (once, drawn), (once_after, drawn_after) = _both(before, after, seed)
    draws = (drawn[:, 0], drawn_after[:, 0]) if min(len(before), len(after)) >= MIN_GROUPS else None
    yield _difference(name, unit, once[0], once_after[0], draws, lower_is_better=False)


def _both(before: Groups, after: Groups, seed: int) -> tuple[tuple[list[float], Floats], tuple[list[float], Floats]]:
    """Figures and draws of each, drawn with different numbers."""
    return resampled(before, 2 * seed), resampled(after, 2 * seed + 1)


def _difference(
    name: str, unit: str, before: float, after: float, draws: tuple[Floats, Floats] | None, *, lower_is_better: bool
) -> Difference:
    ratio = after / before if before > 0 else None
    if ratio is None or draws is None:
        return Difference(name, unit, before, after, ratio, None, None, "unknown")
    num = min(len(one) for one in draws)
    divisor = np.where(draws[0][:num] > 0, draws[0][:num], np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(edge) for edge in np.nanquantile(draws[1][:num] / divisor, [tail, 1 - tail]))
    verdict: Verdict = "the same"
    if not low <= 1 <= high:
        verdict = "better" if (high < 1) == lower_is_better else "worse"
    return Difference(name, unit, before, after, ratio, low, high, verdict)


def _token_rates(records: Sequence[RequestRecord]) -> Groups:
    return _rates(records, [time for record in records for time in record.token_s])


def _answer_rates(records: Sequence[RequestRecord]) -> Groups:
    return _rates(records, [record.ended_s for record in records if record.status == "ok"])


def _rates(records: Sequence[RequestRecord], times: Sequence[float]) -> Groups:
    """How many a second in each stretch of the run."""
    if not records:
        return []
    start, end = min(one.intended_s for one in records), max(one.ended_s for one in records)
    if not times or end <= start:
        return []
    counts, edges = np.histogram(times, bins=NUM_STRETCHES, range=(start, end))
    return [(float(count) / float(edges[1] - edges[0]),) for count in counts]


def _answered(records: Sequence[RequestRecord]) -> Groups:
    return _blocks([(float(one.status == "ok"),) for one in records if one.status != "cancelled"])


def _good(records: Sequence[RequestRecord], slo: SLO) -> Groups:
    stayed = [one for one in records if one.status != "cancelled"]
    return _blocks([(float(one.status == "ok" and Latency.of(one).keeps(slo)),) for one in stayed])
