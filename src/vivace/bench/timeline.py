"""Runs a workload and notes when every token came."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.bench.workload import Workload
from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine


@dataclass(slots=True)
class Stream:
    """One request: when it arrived and when each of its tokens came, in seconds on one clock."""

    arrival: float
    tokens: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Timeline:
    """All streams of one run of a workload."""

    workload: Workload
    streams: tuple[Stream, ...]


def run(engine: Engine, workload: Workload, prompts: list[list[int]], clock: Callable[[], float]) -> Timeline:
    """Submit all prompts at once and step until every one has its `output_len` tokens (greedy, eos ignored)."""
    params = SamplingParams(max_tokens=workload.output_len, temperature=0.0, ignore_eos=True)
    streams = {f"bench-{index}": Stream(clock()) for index in range(len(prompts))}
    for request_id, prompt in zip(streams, prompts, strict=True):
        engine.add(request_id, prompt, params)
    while engine.num_unfinished:
        if idle_s := engine.idle_s:  # a static batch that waits to fill up
            time.sleep(idle_s)
        events = engine.step()
        now = clock()
        for event in events:
            if event.finish == "error":
                raise EngineError(f"a benchmark stream ended early: {event.stop_reason}")
            if event.token is not None:
                streams[event.request_id].tokens.append(now)
    for request_id in streams:
        engine.forget(request_id)
    return Timeline(workload, tuple(streams.values()))
