"""A whole run: examine the server, play the traffic, watch the server and ourselves."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvloop

from vivace.bench.generator_health import GeneratorLoad
from vivace.bench.load.client import HttpClient
from vivace.bench.load.clock import MonotonicClock
from vivace.bench.load.conductor import Conductor
from vivace.bench.load.description import Description, describe
from vivace.bench.load.generator_watch import GeneratorWatch
from vivace.bench.load.observer import Observer
from vivace.bench.load.preflight import examine
from vivace.bench.load.progress import RunProgress
from vivace.bench.load.sender import HttpSender
from vivace.bench.load.target import Target
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.server_summary import MemoryParts
from vivace.bench.traffic.request import Traffic

LEAD_S = 0.2  # before the first request is due: its connection is open by then
LEAD_PER_USER_S = 0.001  # a closed loop's users all begin at once


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run knows beside its records and samples, for `summarise`."""

    target: Target
    load: GeneratorLoad
    memory: MemoryParts


async def run_traffic(
    traffic: Traffic,
    target: Target,
    *,
    on_record: Callable[[RequestRecord], None],
    on_sample: Callable[[ServerSample], None],
    progress: RunProgress | None = None,
) -> RunReport:
    """Send everything; each record is handed over when its request ends, before what waits for it goes on.

    Raises `TargetError` for a server that cannot be measured, or that is gone on the way (what ended is recorded).
    """
    clock, progress = MonotonicClock(), progress or RunProgress()
    progress.num_requests = len(traffic.requests)
    _allow_many_sockets()
    client = HttpClient(target.address, clock.now, api_key=target.api_key, tls=target.tls)
    observer = Observer(target, clock, on_sample)
    try:
        target = await examine(client, target, traffic.requests)
        conductor = Conductor(
            traffic,
            HttpSender(client, target, clock, progress),
            clock,
            on_record,
            max_concurrency=target.max_concurrency,
        )
        lead_s = LEAD_S + LEAD_PER_USER_S * (traffic.concurrency or 0)
        clock.start(lead_s)
        await observer.sample()  # a busy server may take longer to tell than the lead is: that delays no request
        async with GeneratorWatch() as watch:
            with _no_garbage_collection():
                clock.start(lead_s)
                await _watched(conductor, observer)
            load = watch.load()
        return RunReport(target, load, observer.memory)
    finally:
        client.close()
        observer.close()


def send(traffic: Traffic, target: Target, on_record: Callable[[RequestRecord], None] = lambda _: None) -> RunReport:
    """A whole run on an event loop of its own."""
    return uvloop.run(run_traffic(traffic, target, on_record=on_record, on_sample=lambda _: None))


def server_description(target: Target) -> Description:
    """Ask the server what it is. Raises `TargetError`."""

    async def ask() -> Description:
        client = HttpClient(target.address, time.perf_counter, api_key=target.api_key, tls=target.tls)
        try:
            return await describe(client, target)
        finally:
            client.close()

    return uvloop.run(ask())


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """One round of it takes tens of milliseconds. What is there by now is collected before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


async def _watched(conductor: Conductor, observer: Observer) -> None:
    """Play, with a sample of the server now and then, and after."""
    watching = asyncio.create_task(observer.watch())
    try:
        await conductor.play()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await observer.sample()


def _allow_many_sockets() -> None:
    """A stream is a file descriptor, and many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
