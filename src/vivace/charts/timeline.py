"""Several measures over one clock, one lane each: what the machine did while the clients waited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vivace.charts.axis import Axis
from vivace.charts.figure import NARROW, Drawing, figure
from vivace.charts.lines import Series
from vivace.charts.palette import series_color
from vivace.charts.plot import Plot, left_margin, legend
from vivace.charts.svg import area, dot, path, text_width

_LANE, _GAP, _FOOT = 84, 46, 48


@dataclass(frozen=True, slots=True)
class Lane:
    """Series over time with one value axis. `stacked`: each lies on the one before; `dots`: marks without a line."""

    axis: Axis
    series: Sequence[Series]
    stacked: bool = False
    dots: bool = False


def timeline(title: str, lanes: Sequence[Lane], *, clock: Axis, note: str = "") -> str:
    """An HTML fragment: lanes one below the other, with the clock at the bottom."""
    words = " ".join(_words(lane) for lane in lanes)
    return figure(title, words, lambda width: _draw(width, lanes, clock), note=note)


def _draw(width: int, lanes: Sequence[Lane], clock: Axis) -> Drawing:
    times = [x for lane in lanes for one in lane.series for x, _ in one.points]
    y_scales = [lane.axis.scale(_heights(lane), 0, 1, num_ticks=3) for lane in lanes]
    left = max((left_margin(scale.ticks) for scale in y_scales), default=40.0)
    x = clock.scale(times, left, width - 14, num_ticks=8 if width > NARROW else 4)
    marks: list[str] = []
    top = 28.0
    color = 0
    for index, lane in enumerate(lanes):
        plot = Plot(x, lane.axis.scale(_heights(lane), top + _LANE, top, num_ticks=3))
        marks += plot.frame(x_labels=index == len(lanes) - 1)
        marks += _lane(plot, lane, color)
        if len(lane.series) > 1:
            names = [(one.name, series_color(color + number)) for number, one in enumerate(lane.series)]
            room = sum(18 + text_width(name) + 14 for name, _ in names)
            marks += legend(names, max(left + text_width(lane.axis.words) + 20, width - 14 - room), top - 12, room)[1]
        color += len(lane.series)
        top += _LANE + _GAP
    return top - _GAP + _FOOT, marks


def _heights(lane: Lane) -> list[float]:
    series = _stacked(lane.series) if lane.stacked else lane.series
    return [y for one in series for _, y in one.points]


def _lane(plot: Plot, lane: Lane, first_color: int) -> Iterator[str]:
    colors = [series_color(first_color + number) for number in range(len(lane.series))]
    if lane.dots:
        for one, color in zip(lane.series, colors, strict=True):
            for x, y in one.points:
                title = f"{one.name}: {lane.axis.value(y)} at {plot.x.axis.value(x)}"
                yield dot(*plot.place(x, y), color=color, title=title, radius=2.2)
        return
    drawn = _stacked(lane.series) if lane.stacked else list(lane.series)
    grounds = [None, *drawn] if lane.stacked else [None] * len(drawn)
    layers = list(zip(drawn, grounds, colors, strict=False))
    for one, ground, color in reversed(layers):  # where nothing lies on it, a series shows its own edge
        yield from _layer(plot, one, ground, color)
    yield from plot.columns([(one.name, one.points) for one in lane.series])


def _layer(plot: Plot, one: Series, ground: Series | None, color: str) -> Iterator[str]:
    """A series above another one, or above the axis."""
    if not one.points:
        return
    floor = ground or Series("", [(x, plot.y.low) for x, _ in one.points], steps=one.steps)
    places = [plot.place(x, y) for x, y in one.corners()]
    yield area(places + [plot.place(x, y) for x, y in reversed(floor.corners())], color=color, opacity=0.28)
    yield path(places, color=color, width=1.4)


def _stacked(series: Sequence[Series]) -> list[Series]:
    """Each series with those before it below; all have their points at the same times."""
    stacked: list[Series] = []
    below = [0.0] * max((len(one.points) for one in series), default=0)
    for one in series:
        points = [(x, y + base) for (x, y), base in zip(one.points, below, strict=False)]
        below = [y for _, y in points]
        stacked.append(Series(one.name, points, steps=one.steps))
    return stacked


def _words(lane: Lane) -> str:
    parts = []
    for one in lane.series:
        values = [y for _, y in one.points]
        if values:
            mean, highest = sum(values) / len(values), max(values)
            parts.append(f"{one.name}: {lane.axis.value(mean)} on average, at most {lane.axis.value(highest)}.")
    return " ".join(parts)
