"""Log lines, as text or JSON, that no request can forge and no slow reader of stderr can hold up."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    LineHandler = logging.StreamHandler[Any]
else:
    LineHandler = logging.StreamHandler

MAX_QUEUED_LINES = 10_000  # about 5 MB; beyond it lines are dropped and counted
MAX_VALUE_CHARS = 300

current_request_id: ContextVar[str | None] = ContextVar("current_request_id", default=None)


@contextmanager
def logging_to_stderr(log_format: Literal["text", "json"], *, access_log: bool = True) -> Iterator[None]:
    """Write Vivace's lines (and uvicorn's errors) from a thread of their own; restores what was there before."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    queue: Queue[Any] = Queue(MAX_QUEUED_LINES)
    entrance = _Entrance(queue)
    listener = QueueListener(queue, handler)
    loggers = [logging.getLogger(name) for name in ("vivace", "uvicorn.error", "asyncio", "opentelemetry")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(entrance)
        logger.setLevel(logging.INFO if logger.name == "vivace" else logging.ERROR)
        logger.propagate = False
    access_logger = logging.getLogger("vivace.access")
    access_level = access_logger.level
    if not access_log:
        access_logger.setLevel(logging.WARNING)
    listener.start()
    try:
        yield
    finally:
        access_logger.setLevel(access_level)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(entrance)
            logger.setLevel(level)
            logger.propagate = propagate
        listener.stop()


def escaped(text: str) -> str:
    """Control characters, line ends and what else does not print, as escapes: one value stays in its place."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class TextLines(logging.Formatter):
    """`2026-11-22T10:50:01.123Z INFO access req-1f… request method=POST status=200`; tracebacks follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        words = [
            _moment(record),
            record.levelname,
            record.name.removeprefix("vivace."),
            fields.pop("request_id", "-"),
        ]
        words.append(escaped(record.getMessage()))
        words += [f"{name}={_quoted(value)}" for name, value in fields.items()]
        lines = [" ".join(words)]
        if record.exc_info:
            lines += [f"  | {escaped(line)}" for line in self.formatException(record.exc_info).split("\n")]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


class _Entrance(QueueHandler):
    """Never blocks: where the writer cannot keep up, lines are counted instead of kept."""

    num_dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.request_id = current_request_id.get()  # of the task that logs; the writer's thread has none
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        record.dropped_lines = self.num_dropped or None
        try:
            self.queue.put_nowait(record)
            self.num_dropped = 0
        except Full:
            self.num_dropped += 1


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in ("request_id", "dropped_lines"):
        value = getattr(record, name, None)
        if value is not None:
            fields[name] = value
    for name, value in getattr(record, "fields", {}).items():
        is_long = isinstance(value, str) and len(value) > MAX_VALUE_CHARS
        fields[name] = value[:MAX_VALUE_CHARS] + "…" if is_long else value
    return fields


def _quoted(value: object) -> str:
    text = escaped(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text or "=" in text else text


def _moment(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
