"""CUDA graphs of decode steps: launching a layer's ten kernels one by one takes longer than they run.

A graph has fixed shapes and addresses, so a step of B rows over W blocks runs in the next larger bucket of both. Rows
that fill it up write to the spare block of the cache and read a context of one token. Steps with prompts, guesses or
trees, and caches with 16-bit keys beside the pool (which grow), run without a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.backends.cuda.step import DeviceStep, StepPlan, device_step, step_arrays
from vivace.backends.cuda.transfer import Upload, num_integers
from vivace.ops.backend import Int32Array, StepInputs

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
WARM_UPS = 2  # runs before a capture: libraries choose kernels and take workspaces in them

Results = tuple[Tensor, Tensor | None]  # output and states
Plan = Callable[[StepInputs, int], StepPlan]  # of a filled step and the longest context of its bucket
Execute = Callable[[DeviceStep], Results]


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    integers: Tensor  # what the graph reads
    results: Results


class StepGraphs:
    """Captured steps by bucket. `run` gives None for a step that needs none or fits none."""

    def __init__(self, cache: CudaKVCache, upload: Upload, plan: Plan, execute: Execute) -> None:
        self._cache = cache
        self._upload = upload
        self._plan = plan
        self._execute = execute
        self._device = cache.device
        self._captured: dict[tuple[int, int], _Captured] = {}
        self.is_active = cache.device.type == "cuda" and not cache.has_recent_keys
        # One pool for all: results are valid until the next run, so graphs may use each other's memory.
        self._pool = torch.cuda.graph_pool_handle() if self.is_active else None

    def run(self, inputs: StepInputs) -> Results | None:
        """Output and states of all rows of the bucket, the step's first; they are overwritten by the next run."""
        spec = self._cache.spec
        bucket = bucket_of(inputs, spec.block_size) if self.is_active else None
        if bucket is None:
            return None
        filled = fill_up(inputs, *bucket, self._cache.spare_slot, spec.block_size)
        plan = self._plan(filled, bucket[1] * spec.block_size)
        arrays = step_arrays(filled, plan)
        captured = self._captured.get(bucket)
        if captured is None:
            integers = torch.empty(num_integers(arrays), dtype=torch.int32, device=self._device)
            sent = self._upload.send(arrays, integers)
            captured = self._capture(integers, lambda: device_step(sent, plan, spec))
            self._captured[bucket] = captured
        self._upload.send(arrays, captured.integers)
        captured.graph.replay()
        return captured.results

    def _capture(self, integers: Tensor, step: Callable[[], DeviceStep]) -> _Captured:
        """Warm up on a stream of its own, as capturing demands, then record what one step launches."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._execute(step())
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = self._execute(step())
        return _Captured(graph, integers, results)


def bucket_of(inputs: StepInputs, block_size: int) -> tuple[int, int] | None:
    """Rows and table columns of the bucket; None where a row is not a plain decode row, or there is too much to
    gather at once."""
    num_rows = len(inputs.context_lens_B)
    is_plain = inputs.parents_T is None and inputs.states_TD is None
    if not is_plain or len(inputs.token_ids_T) != num_rows or len(inputs.sampled_rows_S) > num_rows:
        return None
    rows = next((size for size in BUCKETS if size >= num_rows), None)
    if rows is None or not num_rows:
        return None
    width = -(-int(inputs.context_lens_B.max()) // block_size)
    width = 1 << (width - 1).bit_length()
    return (rows, width) if rows * width * block_size <= GATHERED_POSITIONS else None


def fill_up(inputs: StepInputs, num_rows: int, width: int, spare_slot: int, block_size: int) -> StepInputs:
    """The step with `num_rows` rows and tables `width` wide, the new ones over the spare block."""
    more = num_rows - len(inputs.context_lens_B)

    def filled(array: Int32Array, value: int, count: int = more) -> Int32Array:
        return np.concatenate([array, np.full(count, value, np.int32)])

    tables_BX = np.full((num_rows, width), spare_slot // block_size, np.int32)
    given_BX = inputs.block_tables_BX[:, :width]
    tables_BX[: len(given_BX), : given_BX.shape[1]] = given_BX
    return replace(
        inputs,
        token_ids_T=filled(inputs.token_ids_T, 0),
        positions_T=filled(inputs.positions_T, 0),
        slots_T=filled(inputs.slots_T, spare_slot),
        query_starts_B1=np.arange(num_rows + 1, dtype=np.int32),
        context_lens_B=filled(inputs.context_lens_B, 1),
        block_tables_BX=tables_BX,
        sampled_rows_S=filled(inputs.sampled_rows_S, 0, num_rows - len(inputs.sampled_rows_S)),
    )
