"""What commands show while they work: an answer as it grows, how fast it grows, how much is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Answer(Protocol):
    """Where an answer is written, piece by piece."""

    def add(self, text: str, status: str) -> None: ...


class Rate:
    """Tokens a second since the first one, and how long that one took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._first: float | None = None
        self._num_tokens = 0

    def count(self, num_tokens: int) -> None:
        self._num_tokens += num_tokens
        if self._first is None:
            self._first = self._clock()

    def summary(self) -> str:
        """One line of figures, as `generate` and `chat` show it; empty before the first token."""
        if self._first is None:
            return ""
        text = f"{self._num_tokens} tokens, the first after {1e3 * (self._first - self._started):.0f} ms"
        if self._num_tokens > 1:
            text += f", then {(self._num_tokens - 1) / max(self._clock() - self._first, 1e-9):.1f} tokens/s"
        return text


def counter(noun: str, after_s: float = 0.0) -> Callable[[int, int], None] | None:
    """A line on stderr that counts `done of total`, drawn over; None where nobody watches.

    Work that is over within `after_s` seconds shows nothing.
    """
    if not sys.stderr.isatty():
        return None
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if time.monotonic() - started >= after_s:
            print(f"\r{done} of {total} {noun}", end="" if done < total else "\n", file=sys.stderr, flush=True)

    return show


class PlainAnswer:
    """Writes the words to stdout at once, and ends the line if the answer did not."""

    def __init__(self) -> None:
        self._ended_line = True

    def __enter__(self) -> PlainAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended_line and kind is not BrokenPipeError:
            print(flush=True)

    def add(self, text: str, status: str = "") -> None:  # noqa: ARG002 - a pipe shows no status
        if text:
            self._ended_line = text.endswith("\n")
            sys.stdout.write(text)
            sys.stdout.flush()
