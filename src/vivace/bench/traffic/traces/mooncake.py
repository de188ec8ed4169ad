"""Mooncake (Qin et al., FAST 2025): JSON lines with timestamp (milliseconds), input_length, output_length, hash_ids.
There is one hash for each block of 512 tokens, and it stands for the block and all blocks before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivace.bench.traffic.numbered_lines import numbered_records
from vivace.bench.traffic.traces.fields import blocks, seconds, tokens
from vivace.bench.traffic.traces.row import TraceRow

COLUMNS = ("timestamp", "input_length", "output_length", "hash_ids")
BLOCK_LEN = 512


def read(path: str | Path, block_len: int = BLOCK_LEN) -> Iterator[TraceRow]:
    """Rows as they stand in the file. Raises `ConfigError`."""
    for where, row in numbered_records(path):
        prompt_len = tokens(row, "input_length", where)
        yield TraceRow(
            arrival_s=seconds(row, "timestamp", where, unit=1e-3),
            prompt_len=prompt_len,
            output_len=tokens(row, "output_length", where),
            block_hashes=blocks(row, "hash_ids", where, prompt_len, block_len),
            block_len=block_len,
        )
