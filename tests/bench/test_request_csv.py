"""The requests as CSV, read back by the standard library."""

from __future__ import annotations

import csv
import io

from vivace.bench.records import RequestRecord
from vivace.bench.request_csv import COLUMNS, request_csv


def test_rows() -> None:
    answered = RequestRecord(0, 1.0, 1.001, 1.5, "ok", 7, 3, (1.1, 1.2, 1.4), 0.05, 4)
    failed = RequestRecord(1, 2.0, 2.0, 2.5, "error", 7, 0, error='=cmd("x"),\n"quoted"')
    rows = list(csv.DictReader(io.StringIO(request_csv([answered, failed]))))
    assert tuple(rows[0]) == COLUMNS
    measured = {name: float(rows[0][name]) for name in ("ttft_ms", "tpot_ms", "itl_max_ms", "e2el_ms", "queue_ms")}
    assert {name: round(value, 6) for name, value in measured.items()} == {
        "ttft_ms": 100,
        "tpot_ms": 150,
        "itl_max_ms": 200,
        "e2el_ms": 400,
        "queue_ms": 50,
    }
    assert rows[1]["ttft_ms"] == rows[1]["e2el_ms"] == ""
    assert rows[1]["error"] == '\'=cmd("x"),\n"quoted"'  # no formula for a spreadsheet
