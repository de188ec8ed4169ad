"""Qwen-Bailian (Wang et al., ATC 2025): JSON lines with chat_id, parent_chat_id (-1: none), timestamp (seconds),
input_length, output_length, type, turn and hash_ids, one for each block of 16 tokens. Each row holds a whole prompt,
the turns before included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivace.bench.traffic.numbered_lines import numbered_records
from vivace.bench.traffic.traces.fields import blocks, seconds, tokens
from vivace.bench.traffic.traces.row import TraceRow

COLUMNS = ("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids")
BLOCK_LEN = 16


def read(path: str | Path, block_len: int = BLOCK_LEN) -> Iterator[TraceRow]:
    """Rows as they stand in the file. Raises `ConfigError`."""
    for where, row in numbered_records(path):
        prompt_len = tokens(row, "input_length", where)
        yield TraceRow(
            arrival_s=seconds(row, "timestamp", where),
            prompt_len=prompt_len,
            output_len=tokens(row, "output_length", where),
            block_hashes=blocks(row, "hash_ids", where, prompt_len, block_len),
            block_len=block_len,
        )
