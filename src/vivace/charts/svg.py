"""The few marks that charts are made of, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from vivace.charts.palette import FAINT, GRID, GROUND, INK, in_light

Place = tuple[float, float]
CHARACTER_WIDTH = 0.6  # of the size, on average, in the sans-serif fonts that systems have


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    anchor: str = "start",
    color: str = INK,
    bold: bool = False,
    halo: bool = False,
) -> str:
    """Words at a place; `halo`: readable over lines."""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    weight = ' font-weight="600"' if bold else ""
    ground = f' paint-order="stroke" stroke="{GROUND}" stroke-width="4" stroke-linejoin="round"' if halo else ""
    return f'<text {place} fill="{color}"{weight}{ground}>{escape(words)}</text>'


def text_width(words: str, size: int = 12) -> float:
    """About how wide words come out."""
    return CHARACTER_WIDTH * size * len(words)


def fitted(words: str, width: float, size: int = 12) -> str:
    """Words that fit in a width, with an ellipsis where some had to go."""
    room = max(1, int(width / (CHARACTER_WIDTH * size)))
    return words if len(words) <= room else words[: max(1, room - 1)].rstrip() + "…"


def line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    color: str = GRID,
    width: float = 1,
    dash: str = "",
    faint: bool = False,
) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    dashes += ' stroke-opacity="0.25"' if faint else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width}"{dashes}/>'
    )


def bar(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    color: str,
    title: str,
    rounding: float = 0,
    hollow: bool = False,
) -> str:
    """A rectangle that says its figure when pointed at; `hollow`: its outline, for what was tried and not kept."""
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    corners = f' rx="{rounding:g}"' if rounding else ""
    paint = (
        f'fill="none" pointer-events="all" stroke="{color}" stroke-dasharray="3 2"' if hollow else f'fill="{color}"'
    )
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size}{corners} {paint}><title>{escape(title)}</title></rect>'


def dot(x: float, y: float, *, color: str, title: str, radius: float = 4, hollow: bool = False) -> str:
    paint = f'fill="{GROUND}" stroke="{color}" stroke-width="1.5"' if hollow else f'fill="{color}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {paint}><title>{escape(title)}</title></circle>'


def path(places: Items[Place], *, color: str, width: float = 2, dash: str = "") -> str:
    """A line through all the places."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{_route(places)}" fill="none" stroke="{color}" stroke-width="{width:g}" '
        f'stroke-linejoin="round" stroke-linecap="round"{dashes}/>'
    )


def area(places: Items[Place], *, color: str, opacity: float = 0.18) -> str:
    """What the places enclose, tinted."""
    return f'<path d="{_route(places)}Z" fill="{color}" fill-opacity="{opacity:g}"/>'


def strip(x: float, y: float, width: float, height: float, title: str) -> str:
    """An invisible column that says its figures when pointed at (the page's style then tints it)."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"'
    return f'<rect class="strip" {place} fill="transparent"><title>{escape(title)}</title></rect>'


def _route(places: Items[Place]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot with a value axis from `low` to `high`, drawn at (`left`, `top`) of the picture."""

    left: float
    top: float
    width: float
    height: float
    low: float
    high: float

    def y(self, value: float) -> float:
        clipped = min(max(value, self.low), self.high)
        return self.top + self.height * (1 - (clipped - self.low) / (self.high - self.low))

    def frame(self, title: str, ticks: Items[tuple[float, str]]) -> Iterator[str]:
        """The title, and a faint line with its label at each tick of the value axis."""
        yield text(self.left, self.top - 14, title, size=14)
        for value, label in ticks:
            yield line(self.left, self.y(value), self.left + self.width, self.y(value))
            yield text(self.left - 8, self.y(value) + 4, label, size=11, anchor="end", color=FAINT)

    def spread(self, x: float, value: float, error: float, *, color: str) -> Iterator[str]:
        """An error bar of one standard error each way."""
        top, bottom = self.y(value + error), self.y(value - error)
        yield line(x, top, x, bottom, color=color, width=1.5)
        yield line(x - 4, top, x + 4, top, color=color, width=1.5)
        yield line(x - 4, bottom, x + 4, bottom, color=color, width=1.5)


def picture(width: int, height: int, title: str, marks: list[str]) -> str:
    """A whole SVG document on white ground, for viewers that know no style sheets."""
    return in_light(drawing(width, height, title, marks))


def drawing(width: int, height: int, title: str, marks: list[str]) -> str:
    """The same for a page, which knows its colours."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(title)} '
            'font-family="system-ui, sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="100%" height="100%" fill="{GROUND}"/>',
            *marks,
            "</svg>\n",
        )
    )
