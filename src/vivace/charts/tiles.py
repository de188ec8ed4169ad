"""The few figures that matter most, large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Tile:
    """`value` with its unit, `name` above it, `note` (an interval, a comparison) below."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


def tiles(rows: Sequence[Tile]) -> str:
    """An HTML fragment, in rows that come out even where they can."""
    columns = next((number for number in (4, 3, 5) if len(rows) % number == 0), min(len(rows), 4) or 1)
    return f'<dl class="tiles" style="--columns: {columns}">\n{"".join(map(_tile, rows))}</dl>\n'


def _tile(one: Tile) -> str:
    unit = f' <span class="unit">{escape(one.unit)}</span>' if one.unit else ""
    note = f'<dd class="note">{escape(one.note)}</dd>' if one.note else ""
    return f'<div><dt>{escape(one.name)}</dt><dd class="value">{escape(one.value)}{unit}</dd>{note}</div>\n'
