"""Lines over a common axis: latency against load, a distribution, a loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from vivace.charts.axis import Axis
from vivace.charts.figure import NARROW, Drawing, figure
from vivace.charts.palette import FAINT, series_color
from vivace.charts.plot import LABEL_SIZE, Plot, apart, left_margin, legend
from vivace.charts.svg import Place, area, dot, line, path, text, text_width

_DASHES = ("", "7 4", "2 4", "10 3 2 3")  # a second sign beside colour, for black ink and for colour-blind readers
_MAX_DOTS = 24
_HEIGHT = 300


@dataclass(frozen=True, slots=True)
class Series:
    """A named line through (x, y). `band`: (x, low, high), intervals. `steps`: y holds to the next x."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    steps: bool = False

    def corners(self) -> list[tuple[float, float]]:
        """The points that the line bends at."""
        if not self.steps or not self.points:
            return list(self.points)
        corners = [self.points[0]]
        for (_, y), (x, after) in zip(self.points, self.points[1:], strict=False):
            corners += [(x, y), (x, after)]
        return corners


@dataclass(frozen=True, slots=True)
class Guide:
    """A value worth a line across the chart: an objective, a median."""

    value: float
    label: str


def lines(
    title: str, series: Sequence[Series], *, x: Axis, y: Axis, guides: Sequence[Guide] = (), note: str = ""
) -> str:
    """An HTML fragment. `guides` lie across the value axis."""
    known = [one for one in series if one.points]
    return figure(title, _words(known, x, y), lambda width: _draw(width, known, x, y, guides), note=note)


def _draw(width: int, series: Sequence[Series], x: Axis, y: Axis, guides: Sequence[Guide]) -> Drawing:
    colors = [series_color(index) for index in range(len(series))]
    names = [one.name for one in series]
    along = len(series) > 1 and all(one.steps for one in series)
    direct = width > NARROW and len(series) > 1 and not along
    legend_height, marks = (0.0, list[str]())
    if len(series) > 1 and not direct and not along:
        legend_height, marks = legend(list(zip(names, colors, strict=True)), 0, 12, width)
    right = width - (max(map(text_width, names)) + 16 if direct else 14)
    plot = _plot(series, x, y, guides, right, legend_height)
    marks += plot.frame()
    for guide in guides:
        place = plot.y.at(guide.value)
        below = place < plot.top + 16
        marks.append(line(plot.left, place, plot.right, place, color=FAINT, dash="2 3"))
        marks.append(text(plot.left + 4, place + (13 if below else -5), guide.label, size=11, color=FAINT, halo=True))
    for one, color, dash in zip(series, colors, _DASHES * len(series), strict=False):
        marks += _line(plot, one, color, dash)
    marks += plot.columns([(one.name, one.points) for one in series])
    if along:
        marks += _names_along(plot, series, colors)
    if direct:
        ends = [plot.y.at(one.points[-1][1]) + 4 for one in series]
        for end, name, color in zip(apart(ends, 15, plot.top, plot.bottom), names, colors, strict=True):
            marks.append(text(plot.right + 8, end, name, size=LABEL_SIZE, color=color, bold=True))
    return plot.bottom + 48, marks


def _plot(series: Sequence[Series], x: Axis, y: Axis, guides: Sequence[Guide], right: float, above: float) -> Plot:
    top, bottom = 28 + above, 28 + above + _HEIGHT - 76
    heights = [value for one in series for _, value in one.points]
    heights += [edge for one in series for _, low, high in one.band for edge in (low, high)]
    y_scale = y.scale(heights + [guide.value for guide in guides], bottom, top)
    left = left_margin(y_scale.ticks)
    places = [place for one in series for place, _ in one.points]
    return Plot(x.scale(places, left, right, num_ticks=7 if right > NARROW else 4), y_scale)


def _line(plot: Plot, one: Series, color: str, dash: str) -> Iterator[str]:
    if one.band and len(one.points) <= _MAX_DOTS:
        for x, low, high in one.band:
            yield line(plot.x.at(x), plot.y.at(low), plot.x.at(x), plot.y.at(high), color=color, width=7, faint=True)
    elif one.band:
        edge = [plot.place(x, high) for x, _, high in one.band]
        edge += [plot.place(x, low) for x, low, _ in reversed(one.band)]
        yield area(edge, color=color)
    yield path([plot.place(x, y) for x, y in one.corners()], color=color, dash=dash)
    if not one.steps and len(one.points) <= _MAX_DOTS:
        for x, y in one.points:
            yield dot(*plot.place(x, y), color=color, title=one.name, radius=3.5)


def _names_along(plot: Plot, series: Sequence[Series], colors: Sequence[str]) -> Iterator[str]:
    """Each name beside its own rising line, at the height where it is farthest from other lines and names."""
    taken = [plot.place(x, y) for one in series for x, y in one.corners()]
    for one, color in zip(series, colors, strict=True):
        width = text_width(one.name)
        spots = [(x + 8, y + 4) for x, y in (plot.place(*point) for point in one.points[len(one.points) // 10 :])]
        room = [(x, y) for x, y in spots if x + width <= plot.right + 12 and y > plot.top + 14] or spots

        x, y = min(room[:: max(1, len(room) // 20)], key=partial(_crowd, taken, width))
        taken += [(x + part * width / 8, y - 4) for part in range(9) for _ in range(20)]
        yield text(x, y, one.name, size=LABEL_SIZE, color=color, bold=True, halo=True)


def _crowd(taken: Sequence[Place], width: float, spot: Place) -> int:
    """How many of the taken places words at a spot would cover."""
    return sum(spot[0] - 4 <= x <= spot[0] + width and -14 <= y - spot[1] <= 6 for x, y in taken)


def _words(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Where each line begins and ends, and how high it gets."""
    parts = [f"{y.label} against {x.label}, {len(series)} line{'s' if len(series) != 1 else ''}."]
    for one in series:
        (first_x, first_y), (last_x, last_y) = one.points[0], one.points[-1]
        parts.append(
            f"{one.name}: from {y.value(first_y)} at {x.value(first_x)} to {y.value(last_y)} at {x.value(last_x)}, "
            f"at most {y.value(max(value for _, value in one.points))}."
        )
    return " ".join(parts)
