"""One HTML file that needs nothing else: no script, no font, no picture from elsewhere; light, dark and on paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vivace.charts.style import STYLE

# What the file itself forbids, should something foreign ever get into it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True)
class Section:
    """`body` is HTML, as the charts and tables of this package return it; `title` and `lead` are plain text."""

    title: str
    body: str
    lead: str = ""


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The document as text. Sections come in order, each with a heading; one without a title has none."""
    below = f'\n<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""
    body = "\n".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>{below}
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    if not section.title:
        return f"<section>\n{section.body}</section>"
    anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
    lead = f'<p class="lead">{escape(section.lead)}</p>\n' if section.lead else ""
    heading = f'<h2 id="{anchor}">{escape(section.title)}</h2>'
    return f'<section aria-labelledby="{anchor}">\n{heading}\n{lead}{section.body}</section>'
