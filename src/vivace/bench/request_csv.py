"""The requests of a run for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from vivace.bench.latency import Latency
from vivace.bench.records import RequestRecord

COLUMNS = (
    "request", "status", "intended_s", "sent_s", "ended_s", "prompt_len", "output_len", "num_cached_tokens",
    "queue_ms", "ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms", "error",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def request_csv(records: Sequence[RequestRecord]) -> str:
    """A header and a line for each request; empty fields where there is nothing to tell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow(_row(record))
    return file.getvalue()


def _row(record: RequestRecord) -> list[object]:
    felt = Latency.of(record)
    return [
        record.index, record.status, record.intended_s, record.sent_s, record.ended_s, record.prompt_len,
        record.output_len, record.num_cached_tokens, felt.queue_ms, felt.ttft_ms, felt.tpot_ms,
        max(felt.gaps_ms, default=None), felt.e2el_ms if record.status == "ok" else None, _harmless(record.error),
    ]  # fmt: skip


def _harmless(text: str | None) -> str | None:
    """A server's words that a spreadsheet would not take for a formula."""
    return f"'{text}" if text and text.startswith(_FORMULA) else text
