"""The few marks that charts are made of, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK, FAINT, GRID = "#1f2430", "#697080", "#e3e6ec"
MODEL_COLOR, REFERENCE_COLOR = "#2a6fdb", "#c2710c"


def text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", color: str = INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place} fill="{color}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, *, color: str = GRID, width: float = 1, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width}"{dashes}/>'
    )


def bar(x: float, y: float, width: float, height: float, *, color: str, title: str) -> str:
    """A rectangle that says its figure when pointed at."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{color}">'
        f"<title>{escape(title)}</title></rect>"
    )


def dot(x: float, y: float, *, color: str, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{escape(title)}</title></circle>'


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
    """A whole SVG document on white ground."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(title)} '
            'font-family="system-ui, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *marks,
            "</svg>\n",
        )
    )
