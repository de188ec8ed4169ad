"""The knee: the highest rate at which a server still keeps up. Pure arithmetic, measured by somebody else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from vivace.bench.latency import Latency
from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO

GOOD_SHARE = 0.90  # of the requests keep the objective: the usual meaning of a rate under an SLO
BAD_SHARE = 0.01  # of the requests may be refused or fail
SLACK_MS = 50.0
SLOWDOWN = 3.0
CLOSE = 1.1  # rates within 10% are the same


@dataclass(frozen=True, slots=True)
class SweepPoint:
    rate: float
    is_sustained: bool


def is_sustained(records: Sequence[RequestRecord], slo: SLO | None, unloaded_ttft_ms: float) -> bool:
    """With an objective: 90% of the requests keep it. Without: those of the later half wait at most three times as
    long for their first token (and 50 ms) as at the lowest rate; a queue that grows does not stay under that."""
    stayed = [record for record in records if record.status != "cancelled"]
    answered = [record for record in stayed if record.status == "ok"]
    if not stayed or len(stayed) - len(answered) > BAD_SHARE * len(stayed):
        return False
    if slo is not None:
        return sum(Latency.of(record).keeps(slo) for record in answered) >= GOOD_SHARE * len(stayed)
    later = sorted(answered, key=lambda record: record.intended_s)[len(answered) // 2 :]
    return later_ttft_ms(later) <= SLOWDOWN * unloaded_ttft_ms + SLACK_MS


def later_ttft_ms(records: Sequence[RequestRecord]) -> float:
    """Median over records that have a first token."""
    waits = [latency.ttft_ms for latency in map(Latency.of, records) if latency.ttft_ms is not None]
    return median(waits) if waits else math.inf


def knee(points: Sequence[SweepPoint]) -> float | None:
    """The highest rate below which every measured one was sustained; None where the lowest was not."""
    highest = None
    for point in sorted(points, key=lambda one: one.rate):
        if not point.is_sustained:
            break
        highest = point.rate
    return highest


def next_rate(points: Sequence[SweepPoint], start: float) -> float | None:
    """Where to measure next: `start`, then twice the last until one is too much, half where the first was; then
    between the knee and what is above it, until they are within 10%: None."""
    if not points:
        return start
    below = knee(points)
    above = min((point.rate for point in points if not point.is_sustained), default=None)
    if below is None:
        return None if above is None or above < start / 64 else above / 2
    if above is None:
        return 2 * below
    return None if above / below <= CLOSE else math.sqrt(above * below)
