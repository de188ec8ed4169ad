"""The live view of a benchmark on stderr.

Drawn by hand: it runs in the thread that takes the times, where a frame of rich's progress bar takes 0.4 ms and this
one 0.02. Nothing is drawn where nobody watches.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType

from vivace.bench.load.progress import RunProgress

BAR = 20


class LoadView:
    """A line that is drawn over; it goes away when the block ends."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._num_tokens = 0
        self._then = self._began

    def __enter__(self) -> Callable[[RunProgress], None] | None:
        return self.show if sys.stderr.isatty() else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    def show(self, progress: RunProgress) -> None:
        now = time.monotonic()
        rate = (progress.num_tokens - self._num_tokens) / max(now - self._then, 1e-9)
        self._num_tokens, self._then = progress.num_tokens, now
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[2K{line(self._title, progress, now - self._began, rate)[:width]}", end="", file=sys.stderr)
        sys.stderr.flush()


def line(title: str, progress: RunProgress, elapsed_s: float, tokens_per_s: float) -> str:
    """How a run stands."""
    filled = BAR * progress.num_ended // max(progress.num_requests, 1)
    parts = [
        f"{title} [{'#' * filled}{'.' * (BAR - filled)}] {progress.num_ended}/{progress.num_requests} done",
        f"{progress.num_sent} sent",
        f"{progress.num_running} running",
    ]
    if progress.num_refused:
        parts.append(f"{progress.num_refused} refused")
    if progress.num_errors:
        parts.append(f"{progress.num_errors} failed")
    parts.append(f"{tokens_per_s:.0f} tok/s")
    if progress.ttft_ms is not None:
        parts.append(f"TTFT {progress.ttft_ms:.0f} ms")
    if progress.itl_ms is not None:
        parts.append(f"ITL {progress.itl_ms:.1f} ms")
    return ", ".join([*parts, f"{elapsed_s:.0f} s"])
