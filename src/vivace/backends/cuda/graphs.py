"""CUDA graphs of decode steps: launching a layer's ten kernels one by one takes longer than they run.

A graph has fixed shapes and addresses, so a step of B rows over W blocks runs in the next larger bucket of both, and
of the parts of contexts, which the attention kernel's programs take one by one. Rows that fill it up write to the
spare block of the cache and read a context of one token. Steps with prompts, guesses or trees, and caches with 16-bit
keys beside the pool (which grow), run without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.backends.cuda.step import DeviceStep, StepPlan, device_step, feed, step_arrays
from vivace.backends.cuda.transfer import Upload, num_integers
from vivace.ops.backend import Int32Array, StepInputs

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
DRIVER_BYTES = 1 << 26  # what a graph may take beside its values
WARM_UPS = 2  # runs before a capture: libraries choose kernels and take workspaces in them

logger = logging.getLogger(__name__)

Results = tuple[Tensor, Tensor | None]  # output and states
Plan = Callable[[StepInputs, int], StepPlan]  # of a filled step and the longest context of its bucket
Execute = Callable[[DeviceStep, Results | None], Results]  # into these, where they are given


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    sent: dict[str, Tensor]  # what the graph reads: views of `integers`
    integers: Tensor
    results: Results


class StepGraphs:
    """Captured steps by bucket. `run` gives None for a step that needs none or fits none."""

    def __init__(
        self, cache: CudaKVCache, upload: Upload, plan: Plan, execute: Execute, max_sampled: int = BUCKETS[-1]
    ) -> None:
        self._cache = cache
        self._upload = upload
        self._plan = plan
        self._execute = execute
        self._device = cache.device
        self._captured: dict[tuple[tuple[str, tuple[int, ...]], ...], _Captured] = {}  # by the shapes of what is sent
        self._max_rows = bucket_of_rows(max_sampled)
        self._pool_bytes = 0  # what the largest graph's values take
        self._results: Results | None = None
        self._is_full = False
        self.is_active = cache.device.type == "cuda" and not cache.has_recent_keys
        # One pool for all: nothing in it outlives a replay, so graphs may use each other's memory.
        self._pool = torch.cuda.graph_pool_handle() if self.is_active else None

    def run(self, inputs: StepInputs) -> Results | None:
        """Output and states of all rows of the bucket, the step's first; they are overwritten by the next run."""
        size = self._cache.spec.block_size
        bucket = bucket_of(inputs, size, most_positions=None) if self.is_active else None
        if bucket is None:
            return None
        filled = fill_up(inputs, *bucket, self._cache.spare_slot, size)
        plan = self._plan(filled, bucket[1] * size)
        if plan.tiles is None and bucket[0] * bucket[1] * size > GATHERED_POSITIONS:
            return None
        arrays = step_arrays(filled, plan)
        shapes = tuple((name, array.shape) for name, array in arrays.items())
        captured = self._captured.get(shapes)
        if captured is None:
            captured = None if self._is_full else self._captured_or_none(arrays, plan)
            if captured is None:
                return None
            self._captured[shapes] = captured
        self._upload.send(arrays, captured.integers)
        feed(captured.sent, filled)
        captured.graph.replay()
        return captured.results

    def _captured_or_none(self, arrays: dict[str, Int32Array], plan: StepPlan) -> _Captured | None:
        """None, and no further attempt, where the memory does not hold another graph."""
        try:
            return self._capture(arrays, plan)
        except torch.cuda.OutOfMemoryError:
            self._is_full = True
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(self._device)
            logger.warning(
                "%s has no memory for another step's CUDA graph: %.2f of %.1f GiB are free, %d graphs are there. "
                "Steps of other sizes run without one; lower gpu_memory_utilization",
                self._device, free / 2**30, total / 2**30, len(self._captured),
            )  # fmt: skip
            return None

    def _capture(self, arrays: dict[str, Int32Array], plan: StepPlan) -> _Captured:
        """Warm up on a stream of its own, as capturing demands, then record what one step launches."""
        integers = torch.empty(num_integers(arrays), dtype=torch.int32, device=self._device)
        sent, spec = self._upload.send(arrays, integers), self._cache.spec
        torch.cuda.reset_peak_memory_stats(self._device)
        held = torch.cuda.memory_allocated(self._device)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                results = self._execute(device_step(sent, plan, spec), None)
        torch.cuda.current_stream().wait_stream(side)
        into = self._shared_results(results)
        del results
        self._require(torch.cuda.max_memory_allocated(self._device) - held)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._execute(device_step(sent, plan, spec), into)
        return _Captured(graph, sent, integers, into)

    def _require(self, num_bytes: int) -> None:
        """Raise torch's `OutOfMemoryError` where a graph with values of so many bytes might not fit: an allocation
        that fails during a capture may end it in another error, and the process with it."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._device)
        if free < num_bytes - self._pool_bytes + DRIVER_BYTES:
            raise torch.cuda.OutOfMemoryError(f"a graph needs {num_bytes} bytes")
        self._pool_bytes = max(self._pool_bytes, num_bytes)

    def _shared_results(self, like: Results) -> Results:
        """Of so many rows, in memory that all graphs write their results to: with results of their own, those of 130
        buckets of a vocabulary of 128,000 would hold some gigabytes."""
        if self._results is None:
            output, states = (None if one is None else one.new_empty(self._max_rows, one.shape[1]) for one in like)
            assert output is not None
            self._results = output, states
        output, states = self._results
        num_rows = len(like[0])
        return output[:num_rows], None if states is None else states[:num_rows]


def bucket_of_rows(num_rows: int) -> int:
    """The smallest that has as many; the largest where none has."""
    return next((size for size in BUCKETS if size >= num_rows), BUCKETS[-1])


def bucket_of(
    inputs: StepInputs, block_size: int, most_positions: int | None = GATHERED_POSITIONS
) -> tuple[int, int] | None:
    """Rows and table columns of the bucket; None where a row is not a plain decode row, or there is too much to
    gather at once. A kernel, which reads the cache in place, gathers nothing: `most_positions` is None."""
    num_rows = len(inputs.context_lens_B)
    is_plain = inputs.parents_T is None and inputs.states_TD is None
    if not is_plain or len(inputs.token_ids_T) != num_rows or len(inputs.sampled_rows_S) > num_rows:
        return None
    rows = bucket_of_rows(num_rows)
    if not 0 < num_rows <= rows:
        return None
    width = -(-int(inputs.context_lens_B.max()) // block_size)
    width = 1 << (width - 1).bit_length()
    if most_positions is not None and rows * width * block_size > most_positions:
        return None
    return rows, width


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
        drawn_rows_T=None if inputs.drawn_rows_T is None else filled(inputs.drawn_rows_T, -1),
    )
