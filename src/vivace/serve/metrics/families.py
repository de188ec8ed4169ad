"""Metric families: a name, a kind and lines, in one shape. Nothing is kept between two scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vivace.serve.metrics.histogram import Histogram

PREFIX = "vivace:"
Kind = Literal["gauge", "counter", "histogram"]


class Labels(NamedTuple):
    names: tuple[str, ...]
    values: tuple[str, ...]

    def text(self, further: Iterable[tuple[str, str]] = ()) -> str:
        """As an exposition writes them, without braces."""
        pairs = (*zip(self.names, self.values, strict=True), *further)
        return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)


@dataclass(frozen=True, slots=True)
class Family:
    """`name` without the suffix of its samples. `lines`: suffix with labels, and the value."""

    name: str
    kind: Kind
    text: str
    lines: list[tuple[str, float]] = field(default_factory=list)


def gauge(name: str, text: str, labels: Labels, value: float) -> Family:
    return Family(PREFIX + name, "gauge", text, [(_braced("", labels.text()), value)])


def counter(name: str, text: str, labels: Labels, value: float) -> Family:
    """Its sample ends in `_total`."""
    return Family(PREFIX + name, "counter", text, [(_braced("_total", labels.text()), value)])


def counters(
    name: str, text: str, labels: Labels, further: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Family:
    """One sample for each combination of further labels."""
    lines = [(_braced("_total", labels.text(zip(further, keys, strict=True))), one) for keys, one in values.items()]
    return Family(PREFIX + name, "counter", text, lines)


def histogram(name: str, text: str, labels: Labels, values: Histogram) -> Family:
    return histograms(name, text, labels, (), {(): values})


def histograms(
    name: str, text: str, labels: Labels, further: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]
) -> Family:
    """One histogram for each combination of further labels."""
    family = Family(PREFIX + name, "histogram", text)
    for keys, one in values.items():
        shared = labels.text(zip(further, keys, strict=True))
        before = f"_bucket{{{shared},le=" if shared else "_bucket{le="
        cumulative = one.cumulative()
        family.lines.extend((f'{before}"{bound}"}}', count) for bound, count in cumulative)
        family.lines.append((_braced("_count", shared), cumulative[-1][1]))
        family.lines.append((_braced("_sum", shared), one.sum))
    return family


def _braced(suffix: str, labels: str) -> str:
    return f"{suffix}{{{labels}}}" if labels else suffix


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
