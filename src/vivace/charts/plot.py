"""The ground of a chart with two axes: grid, labels, columns that tell their figures, names beside their marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vivace.charts.axis import Scale
from vivace.charts.palette import FAINT, GRID, RULE
from vivace.charts.svg import Place, bar, line, strip, text, text_width

LABEL_SIZE = 12
_TICK_SIZE = 11
_MAX_COLUMNS = 80  # that say their figures: as fine as a hand points


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle with a scale each way."""

    x: Scale
    y: Scale

    @property
    def left(self) -> float:
        return self.x.start

    @property
    def right(self) -> float:
        return self.x.end

    @property
    def top(self) -> float:
        return self.y.end

    @property
    def bottom(self) -> float:
        return self.y.start

    def place(self, x: float, y: float) -> Place:
        return self.x.at(x), self.y.at(y)

    def frame(self, *, x_labels: bool = True) -> Iterator[str]:
        """Grid and ticks; the value axis is named above its ticks, the other one below its end."""
        yield text(self.left, self.top - 12, self.y.axis.words, color=FAINT)
        for value, label in self.y.ticks:
            yield line(self.left, self.y.at(value), self.right, self.y.at(value), color=GRID)
            yield text(self.left - 8, self.y.at(value) + 4, label, size=_TICK_SIZE, anchor="end", color=FAINT)
        yield line(self.left, self.bottom, self.right, self.bottom, color=RULE)
        if not x_labels:
            return
        for value, label in self.x.ticks:
            x = self.x.at(value)
            yield line(x, self.bottom, x, self.bottom + 4, color=RULE)
            yield text(x, self.bottom + 18, label, size=_TICK_SIZE, anchor="middle", color=FAINT)
        yield text((self.left + self.right) / 2, self.bottom + 38, self.x.axis.words, anchor="middle", color=FAINT)

    def columns(self, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Iterator[str]:
        """Columns over the plot that tell, when pointed at, every named series' last value up to there."""
        values = sorted({x for _, points in series for x, _ in points})
        if len(values) > _MAX_COLUMNS:
            step = (self.right - self.left) / _MAX_COLUMNS
            values = [self.x.value_at(self.left + (number + 0.5) * step) for number in range(_MAX_COLUMNS)]
        places = [self.x.at(value) for value in values]
        for index, value in enumerate(values):
            start = self.left if index == 0 else (places[index - 1] + places[index]) / 2
            end = self.right if index == len(values) - 1 else (places[index] + places[index + 1]) / 2
            lines = [f"{self.x.axis.label}: {self.x.axis.value(value)}"]
            lines += [f"{name}: {self.y.axis.value(y)}" for name, y in _values_at(series, value)]
            yield strip(start, self.top, end - start, self.bottom - self.top, "\n".join(lines))


def left_margin(y_ticks: Sequence[tuple[float, str]]) -> float:
    """Room for the labels of a value axis."""
    return 14 + max((text_width(label, _TICK_SIZE) for _, label in y_ticks), default=0)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, that keep a gap between them and stay within the ends."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed: list[float] = []
    for index in order:
        placed.append(max(wanted[index], placed[-1] + gap if placed else low))
    limit = high
    for position in range(len(placed) - 1, -1, -1):
        placed[position] = min(placed[position], limit)
        limit = placed[position] - gap
    return [place for _, place in sorted(zip(order, placed, strict=True))]


def legend(names: Sequence[tuple[str, str]], left: float, top: float, width: float) -> tuple[float, list[str]]:
    """Names behind a swatch of their colour, in as many rows as needed; the height and the marks."""
    marks: list[str] = []
    x, y = left, top
    for name, color in names:
        room = 18 + text_width(name, LABEL_SIZE) + 14
        if x > left and x + room > left + width:
            x, y = left, y + 18
        marks += [bar(x, y - 9, 10, 10, color=color, title=name, rounding=2), text(x + 15, y, name, size=LABEL_SIZE)]
        x += room
    return y - top + 22, marks


def _values_at(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]], value: float
) -> Iterator[tuple[str, float]]:
    for name, points in series:
        reached = [y for x, y in points if x <= value * (1 + 1e-9)]
        if reached:
            yield name, reached[-1]
