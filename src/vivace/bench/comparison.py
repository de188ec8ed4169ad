"""Two servers beside each other: rounds that alternate, ratios of each round, and how those spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from vivace.bench.statistics import Distribution, Estimate
from vivace.bench.summary import Summary

FIGURES = {
    "ttft_ms p50": "lower",
    "ttft_ms p99": "lower",
    "itl_ms mean": "lower",
    "itl_ms p99": "lower",
    "tpot_ms p50": "lower",
    "e2el_ms p50": "lower",
    "e2el_ms p99": "lower",
    "output_tokens_per_s": "higher",
    "requests_per_s": "higher",
    "goodput_per_s": "higher",
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """B over A. `first` and `second` are medians over the rounds; `low` and `high` the least and the most ratio of a
    round. `is_clear`: every round says the same; one alone agrees with itself, and says nothing."""

    figure: str
    better: str  # "lower" or "higher"
    first: float
    second: float
    ratio: float
    low: float
    high: float
    num_rounds: int

    @property
    def is_clear(self) -> bool:
        return self.num_rounds > 1 and (self.low > 1 or self.high < 1)

    def record(self) -> dict[str, object]:
        return {**asdict(self), "is_clear": self.is_clear}


def ratios(rounds: Sequence[tuple[Summary, Summary]]) -> list[Ratio]:
    """Of every figure that both sides have in every round. Each round had the same traffic on both sides."""
    found = []
    for figure, better in FIGURES.items():
        pairs = [(value(a, figure), value(b, figure)) for a, b in rounds]
        told = [(a, b) for a, b in pairs if a is not None and b is not None and a > 0]
        if not told or len(told) < len(rounds):
            continue
        each = [b / a for a, b in told]
        first, second = median(a for a, _ in told), median(b for _, b in told)
        found.append(Ratio(figure, better, first, second, median(each), min(each), max(each), len(each)))
    return found


def value(summary: Summary, figure: str) -> float | None:
    """A figure by its name, as in `ttft_ms p50`."""
    name, _, part = figure.partition(" ")
    one = getattr(summary, name)
    if isinstance(one, Distribution):
        one = getattr(one, part)
    return one.value if isinstance(one, Estimate) else one


def comparison_lines(found: Sequence[Ratio], names: tuple[str, str]) -> Iterator[str]:
    """A table; who is better is said only where every round agrees."""
    yield f"A: {names[0]}"
    yield f"B: {names[1]}"
    yield f"{'':>20} {'A':>10} {'B':>10} {'B / A':>8}   least to most"
    for one in found:
        better = "B" if (one.ratio < 1) == (one.better == "lower") else "A"
        verdict = f"{better} is better" if one.is_clear else "no clear difference"
        yield (
            f"{one.figure:>20} {one.first:>10.2f} {one.second:>10.2f} {one.ratio:>8.3f}   "
            f"{one.low:.3f} to {one.high:.3f}  {verdict}"
        )
