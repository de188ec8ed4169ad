"""What only a GPU's driver does: free memory, streams beside the current one, graphs. Tests put a stand-in here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")
Replay = Callable[[], None]


class Driver(Protocol):
    def memory(self) -> tuple[int, int]:
        """Free and all bytes of the device, once everything that was launched is done."""
        ...

    def release(self) -> None:
        """Give back what torch keeps and nobody uses."""
        ...

    def graph_pool(self) -> Any:
        """Memory for graphs, which they share: to be given to `capture`."""
        ...

    def warm_up(self, run: Callable[[], Result], times: int) -> tuple[Result, int]:
        """Run on a stream of its own, as capturing demands: the last result, and the most bytes taken meanwhile."""
        ...

    def capture(self, run: Callable[[], object], pool: Any) -> Replay:
        """Record what `run` launches, without executing it. Raises torch's `OutOfMemoryError`."""
        ...


class CudaDriver:
    """By torch. To be called within `running_on` the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def memory(self) -> tuple[int, int]:
        torch.cuda.synchronize(self._device)
        return torch.cuda.mem_get_info(self._device)

    def release(self) -> None:
        torch.cuda.empty_cache()

    def graph_pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], Result], times: int) -> tuple[Result, int]:
        torch.cuda.reset_peak_memory_stats(self._device)
        held = torch.cuda.memory_allocated(self._device)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(times):
                result = run()
        torch.cuda.current_stream().wait_stream(side)
        return result, torch.cuda.max_memory_allocated(self._device) - held

    def capture(self, run: Callable[[], object], pool: Any) -> Replay:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
        return graph.replay


def driver_of(device: torch.device) -> Driver | None:
    """None for torch's CPU device, which has none of this."""
    return CudaDriver(device) if device.type == "cuda" else None
