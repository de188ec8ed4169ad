"""Bars that lie: long names keep their place, and lengths are compared from one edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vivace.charts.axis import Axis
from vivace.charts.figure import NARROW, WIDE, Drawing, figure
from vivace.charts.palette import FAINT, INK, RULE, series_color
from vivace.charts.svg import bar, fitted, line, text, text_width
from vivace.charts.table import table

_ROW, _THICKNESS = 30, 16
_NAME_SHARE = 0.36  # of the width that names may take


@dataclass(frozen=True, slots=True)
class Bar:
    """`low` and `high`: an interval around the value. `color`: which of the series' colours. `note`: a few words
    behind the value."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    color: int = 0


def bars(title: str, rows: Sequence[Bar], *, axis: Axis, note: str = "") -> str:
    """An HTML fragment: one bar a row from 0, its value behind it, its interval as a whisker."""
    words = f"{axis.label}. " + " ".join(f"{one.name}: {_value(axis, one)}." for one in rows)
    data = table([axis.label, axis.unit or "value", "interval", ""], [_cells(axis, one) for one in rows])
    return figure(title, words, lambda width: _draw(width, rows, axis), note=note, data=data)


def name_width(names: Sequence[str], width: int) -> float:
    """Room for names at the left of a chart, none on narrow ones: they stand above their bars there."""
    if width <= NARROW:
        return 0.0
    return min(max(map(text_width, names), default=0.0) + 12, _NAME_SHARE * WIDE)


def _draw(width: int, rows: Sequence[Bar], axis: Axis) -> Drawing:
    left = name_width([one.name for one in rows], width)
    above = left == 0
    words = [_label(axis, one) for one in rows]
    right = width if above else width - max(map(text_width, words), default=0.0) - 16
    ends = [edge for one in rows for edge in (one.value, one.low, one.high) if edge is not None]
    scale = axis.scale([0.0, *ends], left, right)
    marks = list[str]()
    height = _ROW + (14 if above else 0)
    for index, (one, label) in enumerate(zip(rows, words, strict=True)):
        top = index * height + (height - _THICKNESS - 6)
        middle = top + _THICKNESS / 2
        marks += row_words(one.name, label, left, top, width)
        zero, end = scale.at(0.0), scale.at(one.value)
        title = f"{one.name}: {label}"
        color = series_color(one.color)
        marks.append(bar(min(zero, end), top, abs(end - zero), _THICKNESS, color=color, title=title, rounding=2))
        if one.low is not None and one.high is not None:
            marks += whisker(scale.at(one.low), scale.at(one.high), middle)
        if not above:
            marks.append(text(max(end, scale.at(one.high or 0), zero) + 8, middle + 4, label))
    bottom = len(rows) * height
    marks.append(line(scale.at(0.0), 0, scale.at(0.0), bottom, color=RULE))
    marks.append(text(left, bottom + 16, axis.words, size=11, color=FAINT))
    return bottom + 22, marks


def row_words(name: str, label: str, left: float, top: float, width: int) -> list[str]:
    """The name of a lying bar: before it, or above it together with its figures where there is no room."""
    if left:
        return [text(left - 10, top + 12.5, fitted(name, left - 10), anchor="end")]
    name = fitted(name, 0.6 * width)
    label = fitted(label, width - text_width(name) - 12)
    return [text(0, top - 5, name), text(width, top - 5, label, anchor="end", color=FAINT)]


def whisker(start: float, end: float, y: float) -> list[str]:
    """An interval along a lying bar."""
    return [
        line(start, y, end, y, color=INK, width=1.2),
        line(start, y - 4, start, y + 4, color=INK, width=1.2),
        line(end, y - 4, end, y + 4, color=INK, width=1.2),
    ]


def _label(axis: Axis, one: Bar) -> str:
    return f"{axis.value(one.value)}\u2002{one.note}".rstrip()


def _value(axis: Axis, one: Bar) -> str:
    ends = _ends(axis, one)
    interval = f", between {' and '.join(ends)}" if ends else ""
    return axis.value(one.value) + interval + (f", {one.note}" if one.note else "")


def _cells(axis: Axis, one: Bar) -> tuple[str, str, str, str]:
    return one.name, axis.value(one.value), " – ".join(_ends(axis, one)), one.note


def _ends(axis: Axis, one: Bar) -> tuple[str, ...]:
    """Of the interval; empty without one."""
    return () if one.low is None or one.high is None else (axis.value(one.low), axis.value(one.high))
