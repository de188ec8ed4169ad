"""A GPU's driver, as if torch's CPU device had one: what is captured is a call that a replay makes again, with what
the host had decided when it was captured, over what lies in the device's memory when it is replayed. Memory is only
counted: nothing is really taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

TOTAL = 8 << 30


@dataclass
class RecordedDriver:
    """`graph_bytes`: kept of each graph; `step_bytes`: most that a run takes."""

    graph_bytes: int = 10 << 20
    step_bytes: int = 0
    free_bytes: int = 4 << 30
    pools: list[object] = field(default_factory=list)
    given_pools: list[Any] = field(default_factory=list)
    num_captures: int = 0
    num_replays: int = 0
    num_warm_ups: int = 0

    def memory(self) -> tuple[int, int]:
        return self.free_bytes, TOTAL

    def release(self) -> None:
        """Nothing is kept."""

    def graph_pool(self) -> Any:
        self.pools.append(object())
        return self.pools[-1]

    def warm_up(self, run: Callable[[], Any], times: int) -> tuple[Any, int]:
        results = [run() for _ in range(times)]
        self.num_warm_ups += times
        return results[-1], self.step_bytes

    def capture(self, run: Callable[[], object], pool: Any) -> Callable[[], None]:
        if self.free_bytes < self.graph_bytes:
            raise torch.cuda.OutOfMemoryError("no room in the driver")
        self.free_bytes -= self.graph_bytes
        self.num_captures += 1
        self.given_pools.append(pool)

        def replay() -> None:
            self.num_replays += 1
            run()

        return replay
