"""From a first level to a last one, step by step: what each change brought, and what was tried and left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vivace.charts.axis import Axis, Scale
from vivace.charts.bars import name_width, row_words, whisker
from vivace.charts.figure import Drawing, figure
from vivace.charts.palette import FAINT, INK, RULE, SERIES
from vivace.charts.svg import bar, line, text, text_width
from vivace.charts.table import table

_ROW, _THICKNESS = 32, 18
_LEVEL, _BETTER, _WORSE = SERIES[5], SERIES[0], SERIES[1]


@dataclass(frozen=True, slots=True)
class Stage:
    """The level after a step. `kept` False: it was measured and taken back, so the next step starts from before it.
    `low` and `high`: an interval around the level."""

    name: str
    value: float
    kept: bool = True
    note: str = ""
    low: float | None = None
    high: float | None = None


def waterfall(
    title: str, stages: Sequence[Stage], *, axis: Axis, lower_is_better: bool = False, note: str = ""
) -> str:
    """An HTML fragment. The first stage is where it began; a last bar shows where it ended."""
    steps = list(_steps(stages))
    words = f"{axis.label}. " + " ".join(f"{one.name}: {_words(axis, before, one)}." for before, one in steps)
    rows = [(one.name, axis.value(one.value), _change(before, one), one.note) for before, one in steps]
    data = table(["step", axis.words, "change", ""], rows)

    def draw(width: int) -> Drawing:
        return _draw(width, steps, axis, lower_is_better)

    return figure(title, words, draw, note=note, data=data)


def _steps(stages: Sequence[Stage]) -> Iterator[tuple[float | None, Stage]]:
    """Each stage with the level that it started from."""
    level: float | None = None
    for one in stages:
        yield level, one
        if one.kept or level is None:
            level = one.value
    if level is not None and len(stages) > 1:
        first = stages[0].value
        yield None, Stage("In the end", level, note=f"×{level / first:.2f} in all" if first else "")


def _draw(width: int, steps: Sequence[tuple[float | None, Stage]], axis: Axis, lower_is_better: bool) -> Drawing:
    left = name_width([one.name for _, one in steps], width)
    above = left == 0
    labels = [_label(axis, before, one) for before, one in steps]
    right = width if above else width - max(map(text_width, labels), default=0.0) - 16
    scale = axis.scale([0.0, *(one.high or one.value for _, one in steps)], left, right)
    height = _ROW + (14 if above else 0)
    marks = list[str]()
    for index, ((before, one), label) in enumerate(zip(steps, labels, strict=True)):
        top = index * height + height - _THICKNESS - 7
        marks += row_words(one.name, label, left, top, width)
        marks += _step(scale, before, one, top, lower_is_better)
        end = scale.at(max(one.high or one.value, one.value, before or 0.0))
        if not above:
            marks.append(text(end + 8, top + 13, label, color=INK if one.kept else FAINT))
        if index + 1 < len(steps):
            level = one.value if one.kept or before is None else before
            marks.append(
                line(scale.at(level), top, scale.at(level), top + height + _THICKNESS, color=RULE, dash="2 2")
            )
    bottom = len(steps) * height
    marks.append(line(scale.at(0.0), 0, scale.at(0.0), bottom, color=RULE))
    marks.append(text(left, bottom + 18, axis.words, size=11, color=FAINT))
    return bottom + 24, marks


def _step(scale: Scale, before: float | None, one: Stage, top: float, lower_is_better: bool) -> Iterator[str]:
    start, end = scale.at(before or 0.0), scale.at(one.value)
    better = before is not None and (one.value < before) == lower_is_better
    color = _LEVEL if before is None else _BETTER if better else _WORSE
    title = f"{one.name}: {_words(scale.axis, before, one)}"
    x, length = min(start, end), max(abs(end - start), 2.0)
    yield bar(x, top, length, _THICKNESS, color=color, title=title, rounding=2, hollow=not one.kept)
    if one.low is not None and one.high is not None:
        yield from whisker(scale.at(one.low), scale.at(one.high), top + _THICKNESS / 2)


def _change(before: float | None, one: Stage) -> str:
    return f"×{one.value / before:.2f}" if before else ""


def _label(axis: Axis, before: float | None, one: Stage) -> str:
    parts = (axis.value(one.value), _change(before, one), one.note, "" if one.kept else "(not kept)")
    return "\u2002".join(part for part in parts if part)


def _words(axis: Axis, before: float | None, one: Stage) -> str:
    return _label(axis, before, one).replace("\u2002", ", ")
