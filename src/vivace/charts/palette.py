"""Colours by name: as CSS variables where a page decides between light and dark, as light values in a file alone.

The series colours are apart for readers with each kind of colour blindness, have a contrast of 3 to 1 or more with
their ground, and are given out in this order (tests/charts/test_palette.py computes all of it).
"""

from __future__ import annotations

import re

LIGHT = {
    "ground": "#ffffff",
    "ink": "#1b2130",
    "faint": "#5c6474",
    "rule": "#c3c9d4",
    "grid": "#e6e9ef",
    "wash": "#f5f6f9",
    "series-1": "#2a6fdb",
    "series-2": "#d6440a",
    "series-3": "#07a064",
    "series-4": "#993581",
    "series-5": "#6e9125",
    "series-6": "#3f5b57",
}
DARK = {
    "ground": "#14171f",
    "ink": "#e8eaf0",
    "faint": "#9aa3b5",
    "rule": "#4a5266",
    "grid": "#262c39",
    "wash": "#1b202b",
    "series-1": "#6aa5ff",
    "series-2": "#f8b04e",
    "series-3": "#31e4cd",
    "series-4": "#f47d9c",
    "series-5": "#dde927",
    "series-6": "#9291ae",
}

GROUND, INK, FAINT, RULE, GRID, WASH = (
    f"var(--{name})" for name in ("ground", "ink", "faint", "rule", "grid", "wash")
)
SERIES = tuple(f"var(--series-{number})" for number in range(1, 7))

_VARIABLE = re.compile(r"var\(--([a-z0-9-]+)\)")


def series_color(index: int) -> str:
    return SERIES[index % len(SERIES)]


def variables(colors: dict[str, str]) -> str:
    """The declarations for a style sheet."""
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


def in_light(svg: str) -> str:
    """The same picture with the values of `LIGHT` written out, for viewers that know no style sheets."""
    return _VARIABLE.sub(lambda match: LIGHT[match[1]], svg)
