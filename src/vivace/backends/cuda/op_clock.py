"""How long operations take on the device, however long the host takes to launch them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

LAUNCHES_A_RUN = 32  # of some 20 kernels each at most: the driver's queue takes 1024
LEAD_CYCLES = 20_000_000  # 10 ms at 2 GHz: longer than the host takes to launch a run, 50 to 200 us an operation


def launch_seconds(device: torch.device, launches: Sequence[Callable[[], object]]) -> list[float]:
    """Of each launch, in order. On a GPU by events in its queue: it is kept busy while a run of operations is
    launched, so that they follow each other without the host's gaps, as in a CUDA graph."""
    seconds: list[float] = []
    if device.type == "cpu":
        for launch in launches:
            started = time.perf_counter()
            launch()
            seconds.append(time.perf_counter() - started)
        return seconds
    for first in range(0, len(launches), LAUNCHES_A_RUN):
        run = launches[first : first + LAUNCHES_A_RUN]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(run) + 1)]
        torch.cuda._sleep(LEAD_CYCLES)
        events[0].record()
        for launch, event in zip(run, events[1:], strict=True):
            launch()
            event.record()
        events[-1].synchronize()
        seconds.extend(before.elapsed_time(after) / 1e3 for before, after in pairwise(events))
    return seconds


def moment(device: torch.device) -> float:
    """The host's clock once the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
