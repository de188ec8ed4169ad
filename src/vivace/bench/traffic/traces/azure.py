"""Azure LLM inference traces of 2023 (Splitwise) and 2024 (DynamoLLM): CSV with TIMESTAMP, ContextTokens,
GeneratedTokens. Moments are dates, in 2023 with seven digits of a second and no zone, in 2024 with six and +00:00."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from vivace.bench.traffic.traces.fields import csv_rows, tokens
from vivace.bench.traffic.traces.row import TraceRow
from vivace.core.errors import ConfigError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(path: str | Path) -> Iterator[TraceRow]:
    """Rows as they stand in the file; the first one's moment is 0. Raises `ConfigError`."""
    first: int | None = None
    for where, row in csv_rows(path, COLUMNS):
        moment = _nanoseconds(row["TIMESTAMP"], where)
        first = moment if first is None else first
        yield TraceRow(
            arrival_s=(moment - first) / 1e9,
            prompt_len=tokens(row, "ContextTokens", where),
            output_len=tokens(row, "GeneratedTokens", where),
        )


def _nanoseconds(text: str, where: str) -> int:
    """Whole: seconds since 1970 as floating point would lose the last digits."""
    match = _MOMENT.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        day, time, fraction, zone = match.groups()
        moment = datetime.fromisoformat(f"{day}T{time}{zone or '+00:00'}") - _EPOCH
    except ValueError:
        raise ConfigError(
            f"{where}, column 'TIMESTAMP': {text[:40]!r} is no moment like 2024-05-10 00:00:00.009930+00:00"
        ) from None
    whole = moment.days * 86_400 + moment.seconds
    return whole * 10**9 + int((fraction or "0").ljust(9, "0"))
