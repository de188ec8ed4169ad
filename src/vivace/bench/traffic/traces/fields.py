"""Fields of a row, checked: a damaged row is refused with its file, line and field."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vivace.bench.traffic.numbered_lines import numbered_lines
from vivace.core.errors import ConfigError

MOST_TOKENS = 16 << 20  # of one prompt: more is damage, and would be built in memory
MOST_SECONDS = 1e11  # three thousand years
Row = Mapping[str, Any]


def csv_rows(path: str | Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file under the names of its header, with where they stand ("FILE, line N").

    Raises `ConfigError` for a header without `columns` and for rows of another number of fields.
    """
    header: list[str] | None = None
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            values = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise ConfigError(f"{where} is no row of a CSV file: {error}") from None
        if header is None:
            header = [name.strip() for name in values]
            if missing := [name for name in columns if name not in header]:
                raise ConfigError(f"{where}: the header lacks {', '.join(missing)}; it has {line[:100]}")
            continue
        if len(values) != len(header):
            raise ConfigError(f"{where} has {len(values)} columns, the header {len(header)}: {line[:80]!r}")
        yield where, dict(zip(header, values, strict=True))


def tokens(row: Row, field: str, where: str) -> int:
    """A count of tokens: a whole number from 0, in a CSV file perhaps written with a point."""
    value = _number(row, field, where)
    if value != int(value) or not 0 <= value <= MOST_TOKENS:
        raise ConfigError(f"{where}, column {field!r}: {value!r} is no number of tokens (0 to {MOST_TOKENS})")
    return int(value)


def seconds(row: Row, field: str, where: str, *, unit: float = 1.0) -> float:
    """A moment in seconds; `unit`: how many seconds the field counts in."""
    value = _number(row, field, where) * unit
    if not abs(value) <= MOST_SECONDS:
        raise ConfigError(f"{where}, column {field!r}: {row[field]!r} is no moment")
    return value


def whole_numbers(row: Row, field: str, where: str) -> tuple[int, ...]:
    """A list of whole numbers from 0: token ids, block hashes."""
    value = _value(row, field, where)
    if not isinstance(value, list):
        raise ConfigError(f"{where}, column {field!r}: a list of whole numbers belongs here, not {_shown(value)}")
    if not all(type(one) is int and one >= 0 for one in value):
        stray = next(one for one in value if not (type(one) is int and one >= 0))
        raise ConfigError(f"{where}, column {field!r}: {_shown(stray)} is no whole number from 0")
    return tuple(value)


def blocks(row: Row, field: str, where: str, prompt_len: int, block_len: int) -> tuple[int, ...]:
    """Hashes of a prompt's blocks: one for each; the last, where it is not full, may be without."""
    hashes = whole_numbers(row, field, where)
    expected = math.ceil(prompt_len / block_len)
    if not prompt_len // block_len <= len(hashes) <= expected:
        raise ConfigError(
            f"{where}, column {field!r}: {len(hashes)} blocks for {prompt_len} tokens, where blocks of {block_len} "
            f"tokens would be {expected}; give the trace's own block length if it is another one"
        )
    return hashes


def _number(row: Row, field: str, where: str) -> float:
    value = _value(row, field, where)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{where}, column {field!r}: {_shown(value)} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or value != value:
        raise ConfigError(f"{where}, column {field!r}: {_shown(value)} is no number")
    return value


def _value(row: Row, field: str, where: str) -> Any:
    if field not in row:
        raise ConfigError(f"{where} has no {field!r}; it has {', '.join(row)[:100]}")
    return row[field]


def _shown(value: object) -> str:
    return f"{value!r:.60}"
