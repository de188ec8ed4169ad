"""Tables that screen readers can walk: a caption, headers with their scope, figures aligned at the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Noted:
    """A cell with a remark below it, smaller: an interval, a unit."""

    value: object
    note: str

    def __str__(self) -> str:
        return str(self.value)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "", notes: str = "") -> str:
    """An HTML fragment; the first cell of a row names it. Columns whose cells all begin like numbers are
    aligned at the right."""
    numeric = [index > 0 and _numeric([row[index] for row in rows]) for index in range(len(headers))]
    head = "".join(
        f'<th scope="col"{_style(number)}>{escape(name)}</th>' for name, number in zip(headers, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{_row(row, numeric)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    below = f'<p class="note">{escape(notes)}</p>' if notes else ""
    name = f' aria-label="{escape(caption)}"' if caption else ""
    return (
        f'<div class="table" role="region" tabindex="0"{name}><table>{title}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{below}\n"
    )


def facts(rows: Sequence[tuple[str, object]]) -> str:
    """Names and what they are, as a list of definitions."""
    pairs = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in rows
        if value is not None
    )
    return f'<dl class="facts">\n{pairs}\n</dl>\n'


def _row(row: Sequence[object], numeric: Sequence[bool]) -> str:
    rest = zip(row[1:], numeric[1:], strict=True)
    return f'<th scope="row">{_cell(row[0])}</th>' + "".join(
        f"<td{_style(one)}>{_cell(cell)}</td>" for cell, one in rest
    )


def _cell(cell: object) -> str:
    note = f'<span class="note">{escape(cell.note)}</span>' if isinstance(cell, Noted) and cell.note else ""
    return ("–" if cell is None else escape(str(cell))) + note


def _style(number: bool) -> str:
    return ' class="number"' if number else ""


def _numeric(cells: Sequence[object]) -> bool:
    known = [str(cell) for cell in cells if cell not in (None, "", "–")]
    return bool(known) and all(cell.lstrip("×±+-−").lstrip()[:1].isdigit() for cell in known)
