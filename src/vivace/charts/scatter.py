"""Points in two measures, and the front of those that no other point beats in both (the Pareto front)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from vivace.charts.axis import Axis
from vivace.charts.figure import NARROW, Drawing, figure
from vivace.charts.palette import FAINT, INK, RULE, SERIES
from vivace.charts.plot import Plot, left_margin
from vivace.charts.svg import Place, dot, line, path, text, text_width
from vivace.charts.table import table

Better = Literal["higher", "lower"]

_TOP, _HEIGHT = 28, 320
_OTHER, _FRONT, _CHOSEN = FAINT, SERIES[0], SERIES[1]


@dataclass(frozen=True, slots=True)
class Point:
    """`chosen`: the one that was taken. `x_range` and `y_range`: intervals. `note`: more, when pointed at."""

    name: str
    x: float
    y: float
    note: str = ""
    chosen: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


def scatter(
    title: str,
    points: Sequence[Point],
    *,
    x: Axis,
    y: Axis,
    x_better: Better = "higher",
    y_better: Better = "higher",
    note: str = "",
) -> str:
    """An HTML fragment. Points of the front are filled, joined and named; the others are hollow."""
    best = pareto_front(points, x_better, y_better)
    words = f"{y.label} against {x.label}, {len(points)} points. On the front: "
    words += "; ".join(f"{one.name}: {x.value(one.x)}, {y.value(one.y)}" for one in best) + "."
    words += "".join(f" Chosen: {one.name}." for one in points if one.chosen)
    rows = [(one.name, x.value(one.x), y.value(one.y), _role(one, best), one.note) for one in points]
    data = table(["", x.words, y.words, "role", ""], rows)

    def draw(width: int) -> Drawing:
        return _draw(width, points, best, x, y, x_better)

    return figure(title, words, draw, note=note, data=data)


def pareto_front(points: Sequence[Point], x_better: Better, y_better: Better) -> list[Point]:
    """The points that no other one beats in one measure without losing in the other, by x."""
    sign_x, sign_y = (1 if better == "higher" else -1 for better in (x_better, y_better))
    front: list[Point] = []
    for one in sorted(points, key=lambda one: (-sign_x * one.x, -sign_y * one.y)):
        if not front or sign_y * one.y > sign_y * front[-1].y:
            front.append(one)
    return sorted(front, key=lambda one: one.x)


def _draw(width: int, points: Sequence[Point], front: Sequence[Point], x: Axis, y: Axis, x_better: Better) -> Drawing:
    top, bottom = _TOP, _HEIGHT - 48
    y_scale = y.scale([edge for one in points for edge in (one.y, *(one.y_range or ()))], bottom, top)
    xs = [edge for one in points for edge in (one.x, *(one.x_range or ()))]
    left = left_margin(y_scale.ticks)
    plot = Plot(x.scale(xs, left, width - 14, num_ticks=7 if width > NARROW else 4), y_scale)
    marks = list(plot.frame())
    if len(front) > 1:
        marks.append(path(_stairs(plot, front, x_better), color=_FRONT, width=1.5, dash="4 3"))
    for one in points:
        marks += _point(plot, one, one in front)
    marks += _names(plot, points, [one for one in points if one.chosen or one in front])
    return _HEIGHT, marks


def _stairs(plot: Plot, front: Sequence[Point], x_better: Better) -> list[Place]:
    """The edge of what can be had: between two points there is only what one of them gives."""
    places = [plot.place(one.x, one.y) for one in front]
    stairs = places[:1]
    for (x, y), (next_x, next_y) in pairwise(places):
        stairs += [(x, next_y) if x_better == "higher" else (next_x, y), (next_x, next_y)]
    return stairs


def _point(plot: Plot, one: Point, on_front: bool) -> Iterator[str]:
    x, y = plot.place(one.x, one.y)
    if one.x_range:
        yield line(plot.x.at(one.x_range[0]), y, plot.x.at(one.x_range[1]), y, color=RULE)
    if one.y_range:
        yield line(x, plot.y.at(one.y_range[0]), x, plot.y.at(one.y_range[1]), color=RULE)
    color = _CHOSEN if one.chosen else _FRONT if on_front else _OTHER
    values = f"{plot.x.axis.value(one.x)}, {plot.y.axis.value(one.y)}"
    title = "\n".join(filter(None, (one.name, values, one.note)))
    yield dot(x, y, color=color, title=title, radius=6 if one.chosen else 4.5, hollow=not (on_front or one.chosen))


def _names(plot: Plot, points: Sequence[Point], named: Sequence[Point]) -> Iterator[str]:
    """A name goes to the first of four sides of its point where it covers neither points, names nor the edge."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in (plot.place(one.x, one.y) for one in points)]
    for one in sorted(named, key=lambda one: not one.chosen):
        x, y = plot.place(one.x, one.y)
        for place, anchor, box in _sides(x, y, text_width(one.name, 11)):
            if _inside(plot, box) and not any(_cross(box, other) for other in taken):
                taken.append(box)
                yield text(*place, one.name, size=11, anchor=anchor, color=INK, bold=one.chosen, halo=True)
                break


Box = tuple[float, float, float, float]


def _sides(x: float, y: float, width: float) -> Iterator[tuple[Place, str, Box]]:
    yield (x + 9, y + 4), "start", (x + 8, y - 7, x + 9 + width, y + 7)
    yield (x - 9, y + 4), "end", (x - 9 - width, y - 7, x - 8, y + 7)
    yield (x, y - 10), "middle", (x - width / 2, y - 21, x + width / 2, y - 7)
    yield (x, y + 18), "middle", (x - width / 2, y + 7, x + width / 2, y + 21)


def _inside(plot: Plot, box: Box) -> bool:
    return box[0] >= plot.left and box[2] <= plot.right + 12 and box[1] >= plot.top - 4 and box[3] <= plot.bottom


def _cross(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _role(one: Point, front: Sequence[Point]) -> str:
    return "chosen" if one.chosen else "on the front" if one in front else ""
