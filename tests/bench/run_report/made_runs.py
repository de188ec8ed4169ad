"""Runs of a made-up server with a queue, in a store."""

from __future__ import annotations

import heapq
import random
from pathlib import Path

from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.slo import SLO
from vivace.bench.store.result_store import ResultStore
from vivace.bench.stored_result import StoredResult
from vivace.bench.summary import summarise

HOSTILE = "<script>alert(1)</script> \"quoted\" & 'so on' " + "long" * 60


def requests(rate: float, num: int = 60, seed: int = 0) -> list[RequestRecord]:
    """Requests that come at random and take turns on four slots; every tenth fails."""
    random_, slots, clock, made = random.Random(seed), [0.0] * 4, 0.0, []
    for index in range(num):
        clock += random_.expovariate(rate)
        begun = max(clock, heapq.heappop(slots))
        times = [begun + 0.05]
        times += [times[0] + 0.01 * step for step in range(1, random_.randrange(2, 40))]
        heapq.heappush(slots, times[-1])
        error = f"{HOSTILE}: {index}" if index % 10 == 9 else None
        status = "error" if error else "ok"
        made.append(
            RequestRecord(
                index, clock, clock, times[-1], status, 30, len(times), tuple(times), begun - clock, 16, error
            )
        )
    return made


def samples() -> list[ServerSample]:
    return [ServerSample(float(second), second % 5, second % 3, second / 10, 1e8, {"x": 1.0}) for second in range(10)]


def fill(path: Path, rates: tuple[float, ...] = (4.0, 8.0, 16.0)) -> None:
    """A run for each rate, the last one without its end."""
    with ResultStore(path) as store:
        for rate in rates:
            options = {"rate": rate, "model": HOSTILE, "nested": {"a": [1, 2], "none": None}, "goodput": ["ttft:500"]}
            run = store.begin("serve", f"chat {HOSTILE}", options, {"cpu": HOSTILE, "memory_bytes": 2**34})
            records = requests(rate, seed=int(rate))
            for record in records:
                store.add_request(run, record)
            for sample in samples():
                store.add_sample(run, sample)
            if rate != rates[-1]:
                store.finish(run, summarise(records, samples(), SLO(ttft=500)).record())


def results(path: Path) -> list[StoredResult]:
    with ResultStore(path, read_only=True) as store:
        return [StoredResult.read(store, run.id) for run in store.runs()]
