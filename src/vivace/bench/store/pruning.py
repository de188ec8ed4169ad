"""Which of the runs that are kept have had their day."""

from __future__ import annotations

from collections.abc import Sequence

from vivace.bench.store.rows import StoredRun

UNDER_WAY_S = 86_400.0  # a run that has begun so short ago and has no end may still be under way


def prunable(runs: Sequence[StoredRun], *, keep: int | None, before: float | None, now: float) -> list[StoredRun]:
    """Those beyond the newest `keep` that began before `before` (seconds since 1970); of both, what is not given does
    not protect. `runs` come oldest first."""
    old = runs if keep is None else runs[: max(0, len(runs) - keep)]
    return [
        run
        for run in old
        if (before is None or run.started_at < before)
        and (run.finished_at is not None or now - run.started_at > UNDER_WAY_S)
    ]
