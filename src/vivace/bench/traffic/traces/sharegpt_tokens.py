"""ShareGPT's prompts as token ids with moments drawn at a rate: JSON lines with input_toks, output_toks,
arrival_time_ns, input_tok_ids (and output_tok_ids, which nothing here needs)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivace.bench.traffic.numbered_lines import numbered_records
from vivace.bench.traffic.traces.fields import seconds, tokens, whole_numbers
from vivace.bench.traffic.traces.row import TraceRow
from vivace.core.errors import ConfigError

COLUMNS = ("input_toks", "output_toks", "arrival_time_ns", "input_tok_ids")


def read(path: str | Path) -> Iterator[TraceRow]:
    """Rows as they stand in the file. Raises `ConfigError`."""
    for where, row in numbered_records(path):
        prompt_len = tokens(row, "input_toks", where)
        token_ids = whole_numbers(row, "input_tok_ids", where)
        if len(token_ids) != prompt_len:
            raise ConfigError(
                f"{where}, column 'input_tok_ids': {len(token_ids)} ids where input_toks is {prompt_len}"
            )
        yield TraceRow(
            arrival_s=seconds(row, "arrival_time_ns", where, unit=1e-9),
            prompt_len=prompt_len,
            output_len=tokens(row, "output_toks", where),
            token_ids=token_ids,
        )
