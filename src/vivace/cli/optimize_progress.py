"""What `vivace optimize` shows while it searches: how far it is, what runs, the best so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vivace.optimize.candidate import Candidate
from vivace.optimize.preparation import Prepared

WIDTH = 78
LINE_S = 15.0  # between lines where stderr is no terminal: a log shows that the search lives, and stays short


class SearchProgress:
    """A bar over the time budget; two lines below it. Where stderr is no terminal, a line now and then."""

    def __init__(self, seconds: float, bars: Progress | None) -> None:
        self._bars = bars
        self._seconds = seconds
        self._started = time.monotonic()
        self._prepared: Prepared | None = None
        self._num_runs = 0
        self._said_at = self._started
        if bars is not None:
            self._bar = bars.add_task("reading the model", total=seconds)
            self._best = bars.add_task("", total=None, visible=False)

    def follow(self, prepared: Prepared) -> None:
        """From here on there is a search to tell of."""
        self._prepared = prepared
        if prepared.num_known:
            print(f"going on from {prepared.num_known} results of an earlier run", file=sys.stderr)

    def report(self, doing: str, candidate: Candidate | None) -> None:
        self._num_runs += doing == "measuring"
        words = f"{doing} {candidate.words if candidate else ''}".strip()
        elapsed = min(self._seconds, time.monotonic() - self._started)
        if self._bars is None:
            self._say(elapsed, words)
            return
        self._bars.update(self._bar, completed=elapsed, description=_fitted(f"{self._num_runs:3d}  {words}"))
        best = self._best_words()
        if best:
            self._bars.update(self._best, description=_fitted(f"     {best}"), visible=True)

    def _say(self, elapsed: float, words: str) -> None:
        now = time.monotonic()
        if now - self._said_at >= LINE_S:
            self._said_at = now
            parts = [part for part in (words, self._best_words()) if part]
            print(f"{elapsed:.0f} s of {self._seconds:.0f}: {'; '.join(parts)}", file=sys.stderr, flush=True)

    def _best_words(self) -> str:
        search = None if self._prepared is None else self._prepared.optimization.search
        if search is None:
            return ""
        trials, objective = search.trials, search.objective
        scores = [
            (objective.score(one, measured), one)
            for one in trials.runs
            if one not in search.gate.refused and (measured := trials.measurement(one)) is not None
        ]
        if not scores:
            return ""
        score, best = max(scores, key=lambda pair: pair[0])
        return f"best so far {objective.shown(score)}: {best.words}"


@contextmanager
def search_progress(seconds: float) -> Iterator[SearchProgress]:
    """Draws on stderr."""
    if not sys.stderr.isatty():
        yield SearchProgress(seconds, None)
        return
    columns = (BarColumn(bar_width=16), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield SearchProgress(seconds, bars)


def _fitted(words: str) -> str:
    return words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"
