"""A run as it stands: what a progress view shows. Counting costs a microsecond, so it is done while measuring."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from vivace.bench.records import RequestRecord

WINDOW = 512  # of the latest gaps and first tokens: a view shows what is, the summary what was


@dataclass(slots=True)
class RunProgress:
    """`num_sent` = `num_running` + all that ended; times in seconds of the run's clock."""

    num_requests: int = 0
    num_sent: int = 0
    num_running: int = 0
    num_ok: int = 0
    num_refused: int = 0
    num_cancelled: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    first_token_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    gap_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def num_ended(self) -> int:
        return self.num_ok + self.num_refused + self.num_cancelled + self.num_errors

    @property
    def ttft_ms(self) -> float | None:
        """Median of the latest."""
        return 1e3 * median(self.first_token_s) if self.first_token_s else None

    @property
    def itl_ms(self) -> float | None:
        return 1e3 * median(self.gap_s) if self.gap_s else None

    def ended(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        self.num_ok += record.status == "ok"
        self.num_refused += record.status == "refused"
        self.num_cancelled += record.status == "cancelled"
        self.num_errors += record.status == "error"
