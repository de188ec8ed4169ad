"""A log line is one line whatever is in it, and a writer that is stuck holds nobody up."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from vivace.serve.logs import MAX_QUEUED_LINES, JsonLines, TextLines, current_request_id, escaped, logging_to_stderr

logger = logging.getLogger("vivace.serve")


@seed(3)
@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_stays_in_its_place(message: str, value: str) -> None:
    record = logging.LogRecord("vivace.access", logging.INFO, "", 0, "%s", (message,), None)
    record.fields = {"path": value}
    for line in (TextLines().format(record), JsonLines().format(record)):
        assert line.isprintable()
        assert len(line.splitlines()) == 1
    read = json.loads(JsonLines().format(record))
    assert (read["message"], read["path"][:300]) == (message, value[:300])


def test_text_lines_quote_what_would_look_like_another_field() -> None:
    record = logging.LogRecord("vivace.access", logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": "/a status=200", "status": 404, "empty": "", "long": "x" * 1_000}
    line = TextLines().format(record)
    assert ' path="/a status=200" status=404 empty="" ' in line
    assert len(line) < 500
    assert escaped("a\r\nb\x1b[31m\x7f\u202e\ud800") == r"a\r\nb\x1b[31m\x7f\u202e\ud800"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_is_indented_or_a_field(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    token = current_request_id.set("req-7")
    try:
        with logging_to_stderr(log_format):  # type: ignore[arg-type]
            try:
                raise RuntimeError("first\n2026-11-22T00:00:00.000Z INFO forged")
            except RuntimeError as error:
                logger.error("it failed", exc_info=error)
    finally:
        current_request_id.reset(token)
    lines = stderr.getvalue().splitlines()
    if log_format == "json":
        assert len(lines) == 1
        read = json.loads(lines[0])
        assert (read["request_id"], read["level"]) == ("req-7", "ERROR")
        assert "forged" in read["traceback"]
    else:
        assert " ERROR serve req-7 it failed" in lines[0]
        assert all(line.startswith("  | ") for line in lines[1:])
    assert not logger.handlers


def test_a_stuck_writer_drops_lines_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    text: list[str] = []
    with os.fdopen(write_end, "w") as writer, os.fdopen(read_end) as reader:
        monkeypatch.setattr(sys, "stderr", writer)
        with logging_to_stderr("json"):
            for number in range(MAX_QUEUED_LINES + 3_000):  # more than queue and pipe hold: nobody reads
                logger.info("line %d", number)
            draining = threading.Thread(target=lambda: text.extend(reader))
            draining.start()
            while not any("dropped_lines" in line for line in text):
                logger.info("another")
        writer.close()
        draining.join(60.0)
    assert sum(json.loads(line).get("dropped_lines", 0) for line in text) > 0


def test_the_access_log_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    with logging_to_stderr("text", access_log=False):
        logging.getLogger("vivace.access").info("request")
        logger.info("kept")
    assert "request" not in stderr.getvalue()
    assert "kept" in stderr.getvalue()
