"""The runs of one `vivace bench serve`: warm-up, then one, or one a rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

from vivace.backends.cpu.detect import available_cores, detect
from vivace.bench.generator_health import LATE_SHARE
from vivace.bench.load.dialect import DIALECTS
from vivace.bench.load.local_gpu import gpu_facts
from vivace.bench.load.run import send
from vivace.bench.load.sweep import SweepPoint, is_sustained, knee, later_ttft_ms, next_rate
from vivace.bench.recorded_run import RecordedRun, recorded_run
from vivace.bench.run_report.report import run_report
from vivace.bench.store.location import default_store_path
from vivace.bench.store.result_store import ResultStore
from vivace.bench.stored_result import StoredResult
from vivace.bench.summary_text import summary_lines
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.request import Traffic
from vivace.bench.traffic.warm_up import warm_up_traffic
from vivace.cli.load_options import LoadOptions
from vivace.cli.load_target import OpenTarget
from vivace.cli.load_traffic import load_traffic
from vivace.cli.load_view import LoadView
from vivace.formats.text_file import write_text

START_SHARE = 0.25  # of what a closed loop got: where a sweep begins
PROBE_USERS, PROBE_REQUESTS = 16, 32
MAX_POINTS = 12
POINT_S, MAX_POINT_REQUESTS = 10.0, 5000  # a rate is held so long, with so many requests at most


class LoadSession:
    """One target, one store, the runs so far."""

    def __init__(self, opened: OpenTarget, load: LoadOptions, seed: int, store: str | None) -> None:
        self._opened = opened
        self._load = load
        self._seed = seed
        self._store = ResultStore(store or default_store_path())
        self._is_warm = False
        self.runs: list[RecordedRun] = []
        self.points: list[SweepPoint] = []

    def __enter__(self) -> LoadSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    @property
    def error(self) -> BaseException | None:
        """What ended the last run early."""
        return self.runs[-1].error if self.runs else None

    def once(self) -> None:
        self._run(self._traffic(), "requests")

    def sweep(self, *, is_searching: bool) -> None:
        """A run at each rate that was given; or at those that a search for the knee asks for."""
        rates = self._load.rates()
        if not is_searching:
            for rate in rates:
                if self.error is None:
                    self._point(rate, lasts=False)
            return
        start = rates[0] if rates else START_SHARE * self._capacity()
        while self.error is None and len(self.points) < MAX_POINTS:
            following = next_rate(self.points, start)
            if following is None:
                return
            self._point(following, lasts=True)

    def _point(self, rate: float, *, lasts: bool) -> None:
        """Prompts of its own: none finds what another rate left in the prefix cache."""
        first = self.runs[0].number if self.runs else None
        run = self._run(
            self._traffic(rate=rate, offset=len(self.points), lasts=lasts), f"{rate:.3g}/s", rate=rate, sweep=first
        )
        if run.error is not None:
            return
        lowest = min(self.points, key=lambda one: one.rate, default=None)
        base = self.runs[self.points.index(lowest)] if lowest is not None and lowest.rate < rate else run
        kept_up = run.summary is not None and run.summary.generator.late_share <= LATE_SHARE  # we did
        sustained = kept_up and is_sustained(run.records, self._load.slo, later_ttft_ms(base.records))
        self.points.append(SweepPoint(rate, sustained))

    def _capacity(self) -> float:
        """Requests a second of a closed loop: no rate above it can be kept up for long."""
        num_requests = min(self._load.num_requests, PROBE_REQUESTS)
        load = replace(self._load, num_requests=num_requests, request_rate=(), think_time=0.0)
        opened = self._opened
        traffic = load_traffic(load, opened.tokenizer, opened.max_model_len, self._seed + 1000, users=PROBE_USERS)
        ended_s: list[float] = []
        send(traffic, opened.target, lambda record: ended_s.append(record.ended_s))
        return len(ended_s) / max(*ended_s, 1e-3)

    def _traffic(self, *, rate: float | None = None, offset: int = 0, lasts: bool = False) -> Traffic:
        """`lasts`: enough of it for a rate; a burst that ends within a second tells nothing of one."""
        opened, load = self._opened, self._load
        if rate is not None and lasts:
            lasting = min(MAX_POINT_REQUESTS, math.ceil(POINT_S * min(rate, MAX_POINT_REQUESTS)))
            load = replace(load, num_requests=max(load.num_requests, lasting))
        return load_traffic(load, opened.tokenizer, opened.max_model_len, self._seed + offset, rate=rate)

    def _run(self, traffic: Traffic, title: str, **options: object) -> RecordedRun:
        self._warm_up(traffic)
        opened = self._opened
        with LoadView(title) as show:
            run = recorded_run(
                traffic,
                opened.target,
                self._store,
                {**self._options(), **options},
                {**client_machine(), **gpu_facts(opened.target)},
                slo=self._load.slo,
                show=show,
            )
        self.runs.append(run)
        return run

    def _warm_up(self, traffic: Traffic) -> None:
        if self._is_warm or not self._load.warm_up:
            return
        self._is_warm = True
        words = PromptText(self._opened.tokenizer)
        warming = warm_up_traffic(traffic, words, self._load.warm_up)
        send(warming, self._opened.target)

    def _options(self) -> dict[str, Any]:
        opened = self._opened
        return {
            "model": opened.description.model,
            "server_title": DIALECTS[opened.description.kind].title,
            "target": opened.name,
            "server_flags": list(opened.flags),
            "num_requests": self._load.num_requests,
            "max_model_len": opened.max_model_len,
            "seed": self._seed,
            "goodput": list(self._load.goodput),
            "max_concurrency": self._load.max_concurrency,
        }

    def lines(self) -> Iterator[str]:
        """The last run for a terminal."""
        run = self.runs[-1]
        title = DIALECTS[run.kind].title
        how = ", ".join(f"{name} {value}" for name, value in run.traffic.source.items())
        yield f"{self._opened.description.model} on {title} ({self._opened.name}): {how}"
        if run.summary is not None:
            yield from summary_lines(run.summary)
        short = sum(record.status == "ok" for record in run.records)
        wanted = {request.index: request.output_len for request in run.traffic.requests}
        num_short = sum(record.status == "ok" and record.output_len < wanted[record.index] for record in run.records)
        if num_short:
            yield f"{num_short} of {short} answers ended before the length that was asked for"
        yield f"run {run.number} in {self._store.path}" + ("" if run.error is None else ", not finished")

    def sweep_lines(self) -> Iterator[str]:
        """A line a rate, and the knee."""
        yield f"{'rate':>8} {'answered/s':>10} {'tok/s':>8} {'TTFT p50':>9} {'p99':>9} {'TPOT p50':>9}  kept up"
        for run, point in sorted(zip(self.runs, self.points, strict=False), key=lambda pair: pair[1].rate):
            found = run.summary
            if found is None or found.ttft_ms is None:
                yield f"{point.rate:>8.3g}  nothing was answered"
                continue
            tpot = "-" if found.tpot_ms is None else f"{found.tpot_ms.p50.value:.2f}"
            good = "" if found.goodput_share is None else f", {found.goodput_share.value:.0%} within the objective"
            yield (
                f"{point.rate:>8.3g} {found.requests_per_s:>10.2f} {found.output_tokens_per_s:>8.1f} "
                f"{found.ttft_ms.p50.value:>9.1f} {found.ttft_ms.p99.value:>9.1f} {tpot:>9}  "
                f"{'yes' if point.is_sustained else 'no'}{good}"
            )
            yield from (f"  WARNING: {warning}" for warning in found.generator.warnings)
        highest = knee(self.points)
        yield "no rate was kept up with" if highest is None else f"keeps up with {highest:.3g} requests/s"
        yield f"runs {self.runs[0].number} to {self.runs[-1].number} in {self._store.path}"

    def write_report(self, path: str) -> None:
        """One HTML page of all runs. Raises `ConfigError` for a place where no file can be written."""
        text = run_report([StoredResult.read(self._store, run.number) for run in self.runs])
        write_text(path, text)

    def record(self) -> dict[str, Any]:
        """For JSON: the last run, or every run of a sweep and the knee."""
        shown = [self._run_record(run) for run in self.runs]
        if not self.points:
            return shown[-1]
        points = [
            {"rate": point.rate, "is_sustained": point.is_sustained, **one}
            for point, one in zip(self.points, shown, strict=False)
        ]
        return {"knee": knee(self.points), "points": points}

    def _run_record(self, run: RecordedRun) -> dict[str, Any]:
        error = None if run.error is None else str(run.error) or type(run.error).__name__
        summary = {} if run.summary is None else run.summary.record()
        return {
            "run": run.number,
            "store": str(self._store.path),
            **self._options(),
            "server_kind": run.kind,
            "traffic": run.traffic.source,
            "error": error,
            **summary,
        }


def client_machine() -> dict[str, Any]:
    """Of the load generator; the server's too where it is local."""
    found = detect()
    return {
        "processor": found.processor,
        "cores": available_cores(),
        "memory_gib": round(found.memory_bytes / 2**30),
        "platform": sys.platform,
    }
