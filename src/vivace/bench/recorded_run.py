"""A run of traffic whose records go to the store as they come, and what is known at its end, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvloop

from vivace.bench.load.dialect import Kind
from vivace.bench.load.progress import RunProgress
from vivace.bench.load.run import RunReport, run_traffic
from vivace.bench.load.target import Target
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.slo import SLO
from vivace.bench.store.result_store import ResultStore
from vivace.bench.summary import Summary, summarise
from vivace.bench.traffic.request import Traffic
from vivace.core.errors import VivaceError

VIEW_PERIOD_S = 0.5


@dataclass(slots=True)
class RecordedRun:
    """One run. `error` is what ended it early: `records` are then those of the requests that had ended."""

    number: int
    traffic: Traffic
    target: Target
    records: list[RequestRecord] = field(default_factory=list)
    samples: list[ServerSample] = field(default_factory=list)
    report: RunReport | None = None
    summary: Summary | None = None
    error: BaseException | None = None

    @property
    def kind(self) -> Kind:
        return self.target.kind if self.report is None else self.report.target.kind


def recorded_run(
    traffic: Traffic,
    target: Target,
    store: ResultStore,
    options: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    kind: str = "serve",
    slo: SLO | None = None,
    show: Callable[[RunProgress], None] | None = None,
) -> RecordedRun:
    """Send the traffic. Each request is in the store before what waits for it goes on: a killed process loses none.

    `show` is called twice a second. What a server does wrong and an interrupt are in `error`; a run that ends early
    stays unfinished in the store.
    """
    run = RecordedRun(
        store.begin(kind, traffic.name, {**options, "traffic": traffic.source}, machine), traffic, target
    )
    progress = RunProgress()

    def keep_record(record: RequestRecord) -> None:
        store.add_request(run.number, record)
        run.records.append(record)

    def keep_sample(sample: ServerSample) -> None:
        store.add_sample(run.number, sample)
        run.samples.append(sample)

    playing = run_traffic(traffic, target, on_record=keep_record, on_sample=keep_sample, progress=progress)
    try:
        run.report = uvloop.run(_shown(playing, progress, show))
    except (VivaceError, KeyboardInterrupt) as error:
        run.error = error
    run.summary = summarise(
        run.records,
        run.samples,
        slo,
        traffic.seed,
        load=None if run.report is None else run.report.load,
        memory=None if run.report is None else run.report.memory,
    )
    if run.error is None:
        store.finish(run.number, run.summary.record())
    return run


async def _shown(
    playing: Coroutine[Any, Any, RunReport], progress: RunProgress, show: Callable[[RunProgress], None] | None
) -> RunReport:
    if show is None:
        return await playing
    showing = asyncio.create_task(_show(progress, show))
    try:
        return await playing
    finally:
        showing.cancel()
        show(progress)


async def _show(progress: RunProgress, show: Callable[[RunProgress], None]) -> None:
    while True:
        show(progress)
        await asyncio.sleep(VIEW_PERIOD_S)
