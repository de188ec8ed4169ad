"""Whether an engine's process that loads a model still gets on with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

STEP_BYTES = 1 << 20  # written to files, that count as a sign of life: a log's line or two do not


class LoadWatch:
    """Stands still: no report and nothing written for `patience_s`.

    A download and the cache of packed weights take minutes without a report, but they write. `written` says how many
    bytes the process has written, or None where the system does not tell.
    """

    def __init__(
        self, patience_s: float, written: Callable[[], int | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.patience_s = patience_s
        self._written = written
        self._clock = clock
        self._moved = self._asked = clock()
        self._num_written = 0

    def is_still(self, last_heard: float) -> bool:
        """To be asked several times within the patience; `last_heard`: when the last report came, on the clock."""
        now = self._clock()
        num_written = self._written() or 0
        was_asleep = now - self._asked > self.patience_s / 2  # this process, so that reports lie unread
        if was_asleep or num_written - self._num_written >= STEP_BYTES:
            self._moved, self._num_written = now, num_written
        self._asked = now
        return now - max(self._moved, last_heard) > self.patience_s


def written_bytes(pid: int) -> int | None:
    """Bytes that a process has written to files so far; None where the system does not tell (Linux does)."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("wchar:")), None)
