"""The progress line of offline generation, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from vivace.engine.output import TextDelta

SECONDS_BETWEEN_DRAWINGS = 0.1


class TokenProgress:
    """Counts finished answers (`n` of each request) and shows output tokens a second, in one line that is drawn over.

    Written by hand: rich's bar would cost 0.1 s of import on the way to every first token.
    """

    def __init__(self, num_answers: int, *, enabled: bool) -> None:
        self._num_answers = num_answers
        self._enabled = enabled
        self._num_finished = 0
        self._num_tokens = 0
        self._started = time.monotonic()
        self._drawn = float("-inf")

    def __enter__(self) -> TokenProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            self._draw(time.monotonic())
            print(file=sys.stderr)

    def update(self, delta: TextDelta) -> None:
        self._num_tokens += len(delta.token_ids)
        self._num_finished += delta.finished
        if self._enabled and (now := time.monotonic()) - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self._draw(now)

    def _draw(self, now: float) -> None:
        self._drawn = now
        rate = self._num_tokens / max(now - self._started, 1e-9)
        line = f"\rgenerating: {self._num_finished} of {self._num_answers} answers, {rate:.1f} tokens/s "
        print(line, end="", file=sys.stderr, flush=True)
