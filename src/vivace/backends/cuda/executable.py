"""A program, the cache that it reads and writes, and how a step of it runs on the device."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.device import running_on
from vivace.backends.cuda.driver import Driver
from vivace.backends.cuda.fusion import stages
from vivace.backends.cuda.graph_buckets import GraphOptions
from vivace.backends.cuda.graphs import Results, StepGraphs
from vivace.backends.cuda.interpreter import Interpreter
from vivace.backends.cuda.joined import joined
from vivace.backends.cuda.kernels.provider import launchers_for
from vivace.backends.cuda.kernels.ragged_rows import TilePlan
from vivace.backends.cuda.kernels.registry import KernelRegistry
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.op_clock import launch_seconds, moment
from vivace.backends.cuda.precision import precision_of
from vivace.backends.cuda.spans import branches_of, spans_of
from vivace.backends.cuda.step import DeviceStep, StepPlan, send_step
from vivace.backends.cuda.transfer import Upload
from vivace.core.errors import EngineError
from vivace.ops.backend import Float64Array, Int32Array, StepInputs, StepLimits
from vivace.ops.program import Linear, Program, States

DEFAULT_GRAPHS = GraphOptions()


def _nothing() -> None:
    """torch's CPU device keeps no freed memory."""


class CudaExecutable:
    """Launches a step's operations, by a CUDA graph where one fits. Only `run_timed` waits for them."""

    def __init__(
        self,
        program: Program,
        cache: CudaKVCache,
        limits: StepLimits,
        registry: KernelRegistry,
        options: GraphOptions = DEFAULT_GRAPHS,
        driver: Driver | None = None,
    ) -> None:
        if program.output is None:
            raise EngineError("the program has no output")
        self._program = program = joined(program, _nothing if driver is None else driver.release)
        self._cache = cache
        self._limits = limits
        self._stages = stages(program)
        layouts = (weight.layout for op in program.ops if isinstance(op, Linear) for weight in op.weights)
        self._launchers = launchers_for(program, cache, registry)
        is_exact = cache.device.type == "cpu" and self._launchers is None
        self._precision = precision_of(layouts, is_exact=is_exact)
        self._upload = Upload(cache.device)
        self.graphs = StepGraphs(cache, self._upload, self._graph_plan, self._execute, limits, options, driver)
        self._states: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self._cache.device

    @property
    def block_size(self) -> int:
        return self._cache.spec.block_size

    @property
    def state_width(self) -> int | None:
        """Of the states that steps bring; None where the program begins with tokens."""
        return next((op.out.width for op in self._program.ops if isinstance(op, States)), None)

    def run(self, inputs: StepInputs) -> Tensor:
        """Logits [S, V] on the device, float32, valid until the next run."""
        self._check(inputs)
        num_sampled = len(inputs.sampled_rows_S)
        with running_on(self._cache.device):
            beside = self._cache.begin_step(inputs)
            results = self.graphs.run(inputs)
            if results is not None:
                output = results[0][:num_sampled]
            else:
                results = self._execute(self._send(inputs, beside))
                output = results[0]
        self._states = None if results[1] is None else results[1][:num_sampled]
        return output

    def states(self) -> Tensor:
        """Of the last run, [S, D], on the device."""
        if self._states is None:
            raise EngineError("the program names no states, or has not run")
        return self._states

    def run_timed(self, inputs: StepInputs) -> Float64Array:
        """Seconds of each operation on the device's clock, without a graph, those that a kernel may compute together
        in equal parts; then of the transfer before them, on the host's."""
        self._check(inputs)
        device = self._cache.device
        with running_on(device):
            started = moment(device)
            sent = self._send(inputs, self._cache.begin_step(inputs))
            interpreter = Interpreter(self._cache, sent, self._precision, self._launchers)
            sent_s = moment(device) - started
            launches = [partial(interpreter.execute_stage, stage) for stage in self._stages]
            seconds = np.array(launch_seconds(device, launches))
        counts = np.array([len(stage.ops) for stage in self._stages])
        return np.append(np.repeat(seconds / counts, counts), sent_s)

    def _execute(self, step: DeviceStep, into: Results | None = None) -> Results:
        """Output and states, in new memory or `into` what is given."""
        interpreter = Interpreter(self._cache, step, self._precision, self._launchers)
        for stage in self._stages:
            interpreter.execute_stage(stage)
        assert self._program.output is not None  # checked when it was compiled
        named = self._program.states
        output, states = interpreter.read(self._program.output), None if named is None else interpreter.read(named)
        if into is None:
            return output.float(), None if states is None else states.float()
        into[0].copy_(output)
        if states is not None and into[1] is not None:
            into[1].copy_(states)
        return into

    def _send(self, inputs: StepInputs, beside: dict[str, Int32Array]) -> DeviceStep:
        branches = branches_of(inputs)
        tiles = self._tiles(inputs, branches is not None, None)
        plan = StepPlan(spans_of(inputs) if tiles is None else [], branches, tiles)
        return send_step(inputs, plan, self._upload, self._cache, beside)

    def _graph_plan(self, inputs: StepInputs, max_context: int) -> StepPlan:
        """Of a step that was filled up to a bucket. Its shapes depend on the bucket alone."""
        tiles = self._tiles(inputs, False, max_context)
        return StepPlan(spans_of(inputs, single=True, width=max_context) if tiles is None else [], None, tiles)

    def _tiles(self, inputs: StepInputs, has_branches: bool, max_context: int | None) -> TilePlan | None:
        if self._launchers is None:
            return None
        return self._launchers.tile_plan(inputs, self._precision.values, has_branches, max_context)

    def _check(self, inputs: StepInputs) -> None:
        limits = self._limits
        if len(inputs.token_ids_T) > limits.max_tokens or len(inputs.sampled_rows_S) > limits.max_sampled:
            raise EngineError(f"the step is larger than {limits}")
