"""The progress bar of offline generation, on stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivace.engine.output import TextDelta


class TokenProgress:
    """Counts finished requests and shows output tokens a second."""

    def __init__(self, num_requests: int, *, enabled: bool) -> None:
        self._num_tokens = 0
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} tokens/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._progress.add_task("generating", total=num_requests, rate=0.0)

    def __enter__(self) -> TokenProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, delta: TextDelta, *, request_finished: bool) -> None:
        self._num_tokens += len(delta.token_ids)
        rate = self._num_tokens / max(time.monotonic() - self._started, 1e-9)
        self._progress.update(self._task, advance=1 if request_finished else 0, rate=rate)
