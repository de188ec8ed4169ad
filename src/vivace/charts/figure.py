"""A chart on a page: its title, two drawings (one for narrow screens), and the same in words."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

Drawing = tuple[float, list[str]]  # height and marks

WIDE, NARROW = 760, 360


def figure(title: str, words: str, draw: Callable[[int], Drawing], *, note: str = "", data: str = "") -> str:
    """HTML. `words` tells readers who do not see it what the chart shows; `data`, a table, folds out below it.

    `draw` is called for each width: text keeps its size on a telephone instead of shrinking with the picture.
    """
    pictures = "\n".join(
        _svg(width, *draw(width), f"{title}. {words}", name) for width, name in ((WIDE, "wide"), (NARROW, "narrow"))
    )
    caption = f'<figcaption><span class="title">{escape(title)}</span>'
    caption += f' <span class="note">{escape(note)}</span></figcaption>' if note else "</figcaption>"
    folded = f"<details><summary>Figures</summary>\n{data}</details>\n" if data else ""
    return f'<figure class="chart">\n{caption}\n{pictures}\n{folded}</figure>\n'


def _svg(width: int, height: float, marks: list[str], words: str, name: str) -> str:
    size = f'width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    body = "\n".join(marks)
    return f'<svg class="{name}" {size} role="img" aria-label="{escape(words)}">\n{body}\n</svg>'
