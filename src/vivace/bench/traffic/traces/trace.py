"""A trace file, whatever its format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from vivace.bench.traffic.numbered_lines import numbered_lines
from vivace.bench.traffic.traces import azure, burstgpt, mooncake, qwen_bailian, sharegpt_tokens
from vivace.bench.traffic.traces.row import TraceRow
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name

TraceKind = Literal["azure", "burstgpt", "mooncake", "qwen-bailian", "sharegpt-tokens"]
TRACE_KINDS: tuple[TraceKind, ...] = get_args(TraceKind)
_READERS: dict[str, Callable[[str | Path], Iterator[TraceRow]]] = {
    "azure": azure.read,
    "burstgpt": burstgpt.read,
    "mooncake": mooncake.read,
    "qwen-bailian": qwen_bailian.read,
    "sharegpt-tokens": sharegpt_tokens.read,
}
_BLOCK_READERS: dict[str, Callable[[str | Path, int], Iterator[TraceRow]]] = {
    "mooncake": mooncake.read,
    "qwen-bailian": qwen_bailian.read,
}
# Narrower ones first: a row of Qwen-Bailian has all that one of Mooncake has.
_COLUMNS: tuple[tuple[TraceKind, tuple[str, ...]], ...] = (
    ("azure", azure.COLUMNS),
    ("burstgpt", burstgpt.COLUMNS),
    ("sharegpt-tokens", sharegpt_tokens.COLUMNS),
    ("qwen-bailian", qwen_bailian.COLUMNS),
    ("mooncake", mooncake.COLUMNS),
)


def read_trace(path: str | Path, kind: str | None = None, *, block_len: int | None = None) -> Iterator[TraceRow]:
    """Rows of a trace, plain or gzip, one in memory at a time. The first line tells the format where `kind` does not.

    `block_len`: tokens of a block that `hash_ids` name, where it is not the one of the published files (Mooncake 512,
    Qwen-Bailian 16). Raises `ConfigError` at once for an unknown kind or format, and for a damaged row, naming file,
    line and column, when it is come to.
    """
    if kind is None:
        kind = trace_kind(path)
    elif kind not in TRACE_KINDS:
        raise ConfigError(f"unknown kind of trace {kind!r}{nearest_name(kind, TRACE_KINDS)}")
    if block_len is None:
        return _READERS[kind](path)
    if kind not in _BLOCK_READERS:
        raise ConfigError(f"a trace of the kind {kind!r} has no blocks: leave the block length out")
    if block_len < 1:
        raise ConfigError(f"a block has 1 token or more, not {block_len}")
    return _BLOCK_READERS[kind](path, block_len)


def trace_kind(path: str | Path) -> TraceKind:
    """The format of a trace file, by the names in its first line. Raises `ConfigError`."""
    _, line = next(numbered_lines(path), (0, ""))
    if not line:
        raise ConfigError(f"{path} holds nothing: a trace has one request a line")
    names = _names(line)
    for kind, columns in _COLUMNS:
        if names.issuperset(columns):
            return kind
    raise ConfigError(
        f"{path}, line 1: no known trace has these columns: {', '.join(sorted(names))[:120] or line[:60]!r}; "
        f"known: {', '.join(TRACE_KINDS)}"
    )


def _names(line: str) -> set[str]:
    if not line.startswith("{"):
        return {name.strip() for name in next(csv.reader([line]), [])}
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return set()
    return set(value)
