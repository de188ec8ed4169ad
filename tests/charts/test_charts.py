"""Every chart, with ordinary, extreme and hostile data: well-formed pictures whose words say what they show."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from vivace.charts.axis import Axis
from vivace.charts.bars import Bar, bars
from vivace.charts.lines import Guide, Series, lines
from vivace.charts.page import Section, page
from vivace.charts.plot import apart
from vivace.charts.scatter import Point, pareto_front, scatter
from vivace.charts.table import Noted, table
from vivace.charts.tiles import Tile, tiles
from vivace.charts.timeline import Lane, timeline
from vivace.charts.waterfall import Stage, waterfall

HOSTILE = "</svg><script>x</script> & \"'"
SPEED = Axis("Speed", "tokens/s")


def chart_lines(values: list[float]) -> str:
    series = [Series(HOSTILE, list(enumerate(values))), Series("other", [(0, 1.0), (5, 2.0)], band=[(0, 0.5, 1.5)])]
    return lines("Lines", series, x=Axis("Load"), y=SPEED, guides=[Guide(2.0, HOSTILE)])


def chart_distribution(values: list[float]) -> str:
    ordered = sorted(value for value in values if value > 0) or [1.0]
    points = [(value, (rank + 1) / len(ordered)) for rank, value in enumerate(ordered)]
    series = [Series(HOSTILE, points, steps=True), Series("other", points[:1], steps=True)]
    return lines("Lines", series, x=Axis("Time", "ms", log=True), y=Axis("Share", share=True, low=0, high=1))


def chart_bars(values: list[float]) -> str:
    rows = [Bar(f"{HOSTILE} {index}", value, value * 0.9, value * 1.1) for index, value in enumerate(values)]
    return bars("Bars", rows, axis=SPEED)


def chart_waterfall(values: list[float]) -> str:
    stages = [Stage(f"{HOSTILE} {index}", value, kept=index % 2 == 0) for index, value in enumerate(values)]
    return waterfall("Waterfall", stages, axis=SPEED)


def chart_scatter(values: list[float]) -> str:
    points = [Point(f"{HOSTILE} {index}", index, value, chosen=index == 1) for index, value in enumerate(values)]
    return scatter("Scatter", points, x=Axis("Load"), y=SPEED)


def chart_timeline(values: list[float]) -> str:
    series = [Series(HOSTILE, list(enumerate(values)), steps=True), Series("other", list(enumerate(values)))]
    lanes = [Lane(SPEED, series, stacked=True), Lane(SPEED, series[1:]), Lane(SPEED, series[:1], dots=True)]
    return timeline("Timeline", lanes, clock=Axis("Time", "s"))


CHARTS = [chart_lines, chart_distribution, chart_bars, chart_waterfall, chart_scatter, chart_timeline]
DATA = {
    "ordinary": [310.0, 512.0, 690.0, 560.0, 601.0],
    "one": [5.0],
    "zeros": [0.0, 0.0, 0.0],
    "wide": [1e-6, 1e9, 3.0],
    "many": [random.Random(7).expovariate(1.0) for _ in range(500)],
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.__name__)
def test_pictures(chart: Callable[[list[float]], str], data: str) -> None:
    html = chart(DATA[data])
    assert "<script" not in html
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        tree = ElementTree.fromstring(picture)
        assert len(tree.attrib["aria-label"]) > 20
        for mark in tree.iter():
            for name in ("x", "y", "cx", "cy", "x1", "x2", "y1", "y2", "width", "height"):
                value = float(mark.attrib.get(name, 0))
                assert math.isfinite(value)
                assert -40 <= value <= 30 + max(760, 62.0 * len(DATA[data])), (name, value)


def test_pareto_front() -> None:
    """Against the definition: nobody else is at least as good in both and better in one."""
    random_ = random.Random(3)
    points = [Point(str(i), random_.randrange(20), random_.randrange(20)) for i in range(60)]
    for x_better in ("higher", "lower"):
        for y_better in ("higher", "lower"):
            sign_x, sign_y = (1 if better == "higher" else -1 for better in (x_better, y_better))
            front = {(one.x, one.y) for one in pareto_front(points, x_better, y_better)}
            for one in points:
                beaten = any(
                    sign_x * (other.x - one.x) >= 0
                    and sign_y * (other.y - one.y) >= 0
                    and (other.x, other.y) != (one.x, one.y)
                    for other in points
                )
                assert ((one.x, one.y) in front) != beaten


def test_a_waterfall_goes_on_from_what_was_kept() -> None:
    html = waterfall(
        "W", [Stage("a", 100), Stage("b", 200), Stage("c", 150, kept=False), Stage("d", 220)], axis=SPEED
    )
    assert "×2.00" in html
    assert "×0.75" in html  # c against b
    assert "×1.10" in html  # d against b, since c was not kept
    assert "×2.20 in all" in html


def test_labels_keep_apart() -> None:
    placed = apart([10, 12, 11, 90, 99], 15, 0, 100)
    ordered = sorted(placed)
    assert all(after - before >= 15 - 1e-9 for before, after in pairwise(ordered))
    assert ordered[-1] <= 100
    assert placed[0] < placed[2] < placed[1]  # their order stays


def test_tables_say_what_their_cells_are() -> None:
    html = table([HOSTILE, "value"], [["a", Noted(1.5, "1 – 2")], ["b", None]], caption="Caption")
    assert html.count('scope="col"') == 2
    assert html.count('scope="row"') == 2
    assert html.count('class="number"') == 3
    assert "<caption>Caption</caption>" in html
    assert "<script" not in html


def test_page() -> None:
    html = page(
        HOSTILE, [Section(HOSTILE, tiles([Tile(HOSTILE, "1", "s", HOSTILE)]), lead=HOSTILE)], subtitle=HOSTILE
    )
    assert html.startswith("<!DOCTYPE html>")
    assert "<script" not in html
    assert "default-src 'none'" in html
