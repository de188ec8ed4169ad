"""What a log shows of a search."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vivace.cli import optimize_progress
from vivace.cli.optimize_progress import search_progress


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(optimize_progress, "time", SimpleNamespace(monotonic=lambda: now))
    with search_progress(60.0) as progress:
        for now in (101.0, 116.0, 117.0, 132.0):  # noqa: B007  the clock's next times
            progress.report("measuring", None)
    assert capsys.readouterr().err.splitlines() == ["16 s of 60: measuring", "32 s of 60: measuring"]
