"""BurstGPT (Wang et al., 2024): CSV with Timestamp (seconds), Model, Request tokens, Response tokens, Total tokens,
Log Type; later releases have Session ID and Elapsed time as well. A response of 0 tokens is a request that failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivace.bench.traffic.traces.fields import csv_rows, seconds, tokens
from vivace.bench.traffic.traces.row import TraceRow

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def read(path: str | Path) -> Iterator[TraceRow]:
    """Rows as they stand in the file. Raises `ConfigError`."""
    for where, row in csv_rows(path, COLUMNS):
        yield TraceRow(
            arrival_s=seconds(row, "Timestamp", where),
            prompt_len=tokens(row, "Request tokens", where),
            output_len=tokens(row, "Response tokens", where),
        )
