"""CUDA graphs of decode steps: launching a layer's ten kernels one by one takes longer than they run.

What a graph reads lies in one buffer of integers and one of block tables, as wide as the longest context; what it
computes goes into one buffer of results. All graphs share them, and the memory of the values between: nothing there
outlives a replay. Steps with prompts, guesses or trees, and caches with 16-bit keys beside the pool (which grow), run
without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vivace.backends.cuda.driver import Driver, Replay
from vivace.backends.cuda.graph_buckets import Bucket, GraphOptions, bucket_step, fill_up, ladder, rows_of, width_of
from vivace.backends.cuda.kernels.ragged_rows import graph_parts
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.backends.cuda.step import DeviceStep, StepPlan, device_step, feed, step_arrays
from vivace.backends.cuda.transfer import ALIGNED, Upload, num_integers
from vivace.core.errors import ConfigError
from vivace.ops.backend import Int32Array, StepInputs, StepLimits, StepProgress

DRIVER_BYTES = 1 << 26  # what a graph may take beside its values
WARM_UPS = 2  # runs before a capture: libraries choose kernels and take workspaces in them

logger = logging.getLogger(__name__)

Results = tuple[Tensor, Tensor | None]  # output and states
Plan = Callable[[StepInputs, int], StepPlan]  # of a filled step and the longest context of its bucket
Execute = Callable[[DeviceStep, Results | None], Results]  # into these, where they are given


@dataclass(frozen=True, slots=True)
class _Captured:
    replay: Replay
    results: Results


@dataclass(frozen=True, slots=True)
class _FilledStep:
    """A step that was filled up to its bucket. `arrays`: the tables, whose width is free, are the last."""

    bucket: Bucket
    inputs: StepInputs
    plan: StepPlan
    arrays: dict[str, Int32Array]


class StepGraphs:
    """Captured steps by bucket. `run` gives None for a step that needs none or fits none."""

    def __init__(
        self,
        cache: CudaKVCache,
        upload: Upload,
        plan: Plan,
        execute: Execute,
        limits: StepLimits,
        options: GraphOptions,
        driver: Driver | None,
    ) -> None:
        self._cache = cache
        self._upload = upload
        self._plan = plan
        self._execute = execute
        self._driver = driver
        self._block_size = cache.spec.block_size
        self._max_context = limits.max_context or cache.num_blocks * self._block_size
        most_rows = limits.max_sampled if limits.max_sequences is None else limits.max_sequences
        has_any = driver is not None and not cache.has_recent_keys
        self._sizes = options.buckets_of_rows(most_rows) if has_any else ()
        self._pool = driver.graph_pool() if driver is not None and self._sizes else None
        self._captured: dict[Bucket, _Captured] = {}
        self._pool_bytes = 0  # what the largest graph's values take
        self._needed_bytes = 0  # by the graph that is being captured
        self._results: Results | None = None
        self._is_full = False
        self.at_start = options.at_start

    @property
    def is_active(self) -> bool:
        return bool(self._sizes)

    @property
    def num_captured(self) -> int:
        return len(self._captured)

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All that steps may come to, the largest first."""
        if not self._sizes:
            return []
        smallest = self._filled(bucket_step(Bucket(1, "blocks", 1), 1, self._block_size, self._cache.spare_slot), 1)
        assert smallest is not None
        return ladder(self._sizes, smallest.bucket.over, self._max_context, self._block_size)

    def capture(self, progress: StepProgress | None) -> None:
        """Of every bucket, now. Raises `ConfigError` with the numbers where the memory does not hold them."""
        buckets = self.buckets
        for done, bucket in enumerate(buckets):
            step = self._step_of(bucket)
            try:
                if bucket not in self._captured:
                    self._captured[bucket] = self._capture(step)
            except torch.cuda.OutOfMemoryError as error:
                raise ConfigError(self._shortage(bucket, done, len(buckets))) from error
            if progress is not None:
                progress(done + 1, len(buckets))

    def run(self, inputs: StepInputs) -> Results | None:
        """Output and states of all rows of the bucket, the step's first; they are overwritten by the next run."""
        rows = rows_of(inputs, self._sizes)
        step = None if rows is None else self._filled(inputs, rows)
        if step is None:
            return None
        captured = self._captured.get(step.bucket)
        if captured is None:
            captured = None if self._is_full else self._captured_or_none(step)
            if captured is None:
                return None
            self._captured[step.bucket] = captured
        feed(self._send(step), step.inputs)
        captured.replay()
        return captured.results

    def _filled(self, inputs: StepInputs, rows: int) -> _FilledStep | None:
        """None where contexts are longer than was said, or there is too much to gather at once."""
        size = self._block_size
        width = width_of(inputs, size)
        if width > self._tables.shape[1]:
            return None
        width = 1 << (width - 1).bit_length()
        filled = fill_up(inputs, rows, self._cache.spare_slot, size)
        plan = self._plan(filled, width * size)
        arrays = step_arrays(filled, plan)
        arrays["tables"] = arrays.pop("tables")
        if plan.tiles is not None:
            return _FilledStep(Bucket(rows, "parts", graph_parts(filled)), filled, plan, arrays)
        if rows * width * size > GATHERED_POSITIONS:
            return None
        return _FilledStep(Bucket(rows, "blocks", width), filled, plan, arrays)

    def _step_of(self, bucket: Bucket) -> _FilledStep:
        step = self._filled(
            bucket_step(bucket, self._max_context, self._block_size, self._cache.spare_slot), bucket.rows
        )
        assert step is not None
        assert step.bucket == bucket
        return step

    def _send(self, step: _FilledStep) -> dict[str, Tensor]:
        """To where the bucket's graph reads it."""
        sent = self._upload.send(step.arrays, self._integers)
        rows, width = step.inputs.block_tables_BX.shape
        self._tables[:rows, :width].copy_(sent["tables"])
        return sent | {"tables": self._tables[:rows]}

    def _captured_or_none(self, step: _FilledStep) -> _Captured | None:
        """None, and no further attempt, where the memory does not hold another graph."""
        try:
            return self._capture(step)
        except torch.cuda.OutOfMemoryError:
            self._is_full = True
            assert self._driver is not None
            self._driver.release()
            shortage = self._shortage(step.bucket, len(self._captured), len(self.buckets))
            logger.warning("%s. Steps of other sizes run without one", shortage)
            return None

    def _capture(self, step: _FilledStep) -> _Captured:
        """Warm up, so that the memory it takes is known, then record what one step launches."""
        driver, spec = self._driver, self._cache.spec
        assert driver is not None
        self._needed_bytes = 0
        sent = self._send(step)
        results, num_bytes = driver.warm_up(lambda: self._execute(device_step(sent, step.plan, spec), None), WARM_UPS)
        into = self._shared_results(results)
        del results
        self._require(driver, num_bytes)
        replay = driver.capture(lambda: self._execute(device_step(sent, step.plan, spec), into), self._pool)
        return _Captured(replay, into)

    def _require(self, driver: Driver, num_bytes: int) -> None:
        """Raise torch's `OutOfMemoryError` where a graph with values of so many bytes might not fit: an allocation
        that fails during a capture may end it in another error, and the process with it."""
        driver.release()
        self._needed_bytes = max(0, num_bytes - self._pool_bytes) + DRIVER_BYTES
        if driver.memory()[0] < self._needed_bytes:
            raise torch.cuda.OutOfMemoryError(f"a graph needs {self._needed_bytes} bytes")
        self._pool_bytes = max(self._pool_bytes, num_bytes)

    def _shortage(self, bucket: Bucket, num_captured: int, num_buckets: int) -> str:
        assert self._driver is not None
        free, total = self._driver.memory()
        needed = f"needs {self._needed_bytes / 2**30:.2f} GiB" if self._needed_bytes else "does not fit"
        return (
            f"{self._cache.device} has no memory for the CUDA graph of {bucket.rows} rows: {num_captured} of "
            f"{num_buckets} graphs are captured, the next one {needed}, and {free / 2**30:.2f} of "
            f"{total / 2**30:.1f} GiB are free; lower gpu_memory_utilization (or the KV cache's size, where it is "
            "given) or max_num_seqs, name fewer cuda_graph_sizes, or leave graphs out by enforce_eager"
        )

    @cached_property
    def _tables(self) -> Tensor:
        """A power of two of columns: where torch gathers, it looks at so many."""
        width = 1 << (-(-self._max_context // self._block_size) - 1).bit_length()
        return torch.zeros((self._sizes[-1], width), dtype=torch.int32, device=self._cache.device)

    @cached_property
    def _integers(self) -> Tensor:
        """As many as the largest bucket sends, with tables of any width."""
        largest = num_integers(self._step_of(self.buckets[0]).arrays) + self._tables.numel() + ALIGNED
        return torch.empty(largest, dtype=torch.int32, device=self._cache.device)

    def _shared_results(self, like: Results) -> Results:
        """Of so many rows, in memory that all graphs write their results to: with results of their own, those of 130
        buckets of a vocabulary of 128,000 would hold some gigabytes."""
        if self._results is None:
            output, states = (None if one is None else one.new_empty(self._sizes[-1], one.shape[1]) for one in like)
            assert output is not None
            self._results = output, states
        output, states = self._results
        num_rows = len(like[0])
        return output[:num_rows], None if states is None else states[:num_rows]
