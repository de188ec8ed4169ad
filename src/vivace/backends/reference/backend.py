"""The reference backend: interprets a recorded program, one reference function an operation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vivace.core.errors import EngineError
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.ops import program as ir
from vivace.ops import reference, reference_kv, reference_sampling
from vivace.ops.backend import (
    Float32Array,
    Float64Array,
    Int32Array,
    KVCache,
    KVSpec,
    SampleInputs,
    StepInputs,
    StepLimits,
    TopLogprobs,
    UInt64Array,
)
from vivace.ops.program import Program, Value, Weight
from vivace.ops.random import row_uniforms
from vivace.ops.reference_activations import ACTIVATION_ROUNDING

FloatArray = NDArray[Any]


class ReferenceKVCache:
    """Keys and values of every layer, [num_layers, num_blocks, G, block_size, K] each, rounded to `spec.dtype`
    when written but held in the backend's own precision. Unwritten slots are NaN, so that a read shows.

    `recent_keys`: as they were written, where `keys` holds those of full blocks by channel; else the same array.
    """

    def __init__(self, spec: KVSpec, num_blocks: int, dtype: DTypeLike) -> None:
        self.spec = spec
        self.num_blocks = num_blocks
        shape = (spec.num_layers, num_blocks, spec.num_kv_heads, spec.block_size, spec.head_dim)
        self.keys = np.full(shape, np.nan, dtype)
        self.values = np.full(shape, np.nan, dtype)
        self.recent_keys = np.copy(self.keys) if spec.dtype == "int4_k_per_channel" else self.keys

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, destination in pairs:
            for held in (self.keys, self.values, self.recent_keys):
                held[:, destination] = held[:, source]

    def move_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        size = self.spec.block_size
        for source, destination in pairs:
            for held in (self.values, self.recent_keys):
                held[:, destination // size, :, destination % size] = held[:, source // size, :, source % size]
            if self.recent_keys is not self.keys and destination % size == size - 1:
                block = destination // size
                self.keys[:, block] = reference_kv.round_channels(self.recent_keys[:, block])

    def track(self, references: Sequence[int]) -> None:
        """Nothing is kept beside the pool."""

    def write(self, layer: int, k_TD: FloatArray, v_TD: FloatArray, slots_T: Int32Array) -> None:
        """Round each token's vectors and put them in their slots; then code the keys of blocks that became full."""
        dtype, head_dim = self.spec.dtype, self.spec.head_dim
        k = reference_kv.KEY_ROUNDING[dtype](k_TD.reshape(-1, head_dim)).reshape(k_TD.shape)
        v = reference_kv.round_values(v_TD.reshape(-1, head_dim), dtype).reshape(v_TD.shape)
        reference.kv_write(k, v, self.recent_keys[layer], self.values[layer], slots_T)
        if self.recent_keys is self.keys:
            return
        block_T, place_T = np.divmod(slots_T, self.spec.block_size)
        for block in block_T[place_T == self.spec.block_size - 1]:
            self.keys[layer, block] = reference_kv.round_channels(self.recent_keys[layer, block])


class ReferenceBackend:
    """NumPy arrays of `dtype` (float32, or float64 for a truth to measure float32 against)."""

    name = "reference"

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self.dtype = np.dtype(dtype)

    @property
    def packed_storage(self) -> None:
        """Matrices are decoded here, not packed."""
        return None

    def free_bytes(self, utilization: float) -> int | None:  # noqa: ARG002 -- of a device with memory of its own
        """Memory is the machine's."""
        return None

    def synchronize(self) -> None:
        """Nothing runs behind a call."""

    def measure_ceilings(self) -> None:
        """Written for reading, not for speed."""

    def on_host(self, values: Any) -> Float32Array:
        """The same array."""
        array: Float32Array = values
        return array

    def encode(self, tensor: StoredTensor, encoding: str) -> StoredTensor:
        return encode(dequantize(tensor), encoding, tensor.name)

    def pack(self, name: str, tensor: StoredTensor) -> Weight:
        """The matrix, decoded. Layout `f32`, or the encoding's name where it says how activations are read."""
        layout = tensor.encoding if tensor.encoding in ACTIVATION_ROUNDING else "f32"
        return self._weight(name, dequantize(tensor), layout)

    def vector(self, name: str, values: Float32Array) -> Weight:
        return self._weight(name, values, "f32")

    def _weight(self, name: str, values: FloatArray, layout: str) -> Weight:
        data = np.array(values, dtype=self.dtype)  # a copy: nothing stored is referenced afterwards
        return Weight(name, data.shape, layout, data.nbytes, data)

    def kv_cache(self, spec: KVSpec, num_blocks: int) -> ReferenceKVCache:
        return ReferenceKVCache(spec, num_blocks, self.dtype)

    def compile(self, program: Program, kv_cache: KVCache, limits: StepLimits) -> ReferenceExecutable:
        if program.output is None:
            raise EngineError("the program has no output")
        return ReferenceExecutable(program, cast(ReferenceKVCache, kv_cache), limits)

    def uniforms(self, seed_S: UInt64Array, index_S: Int32Array, position_S: Int32Array) -> Float32Array:
        return row_uniforms(seed_S, index_S, position_S)

    def sample(self, logits: Any, inputs: SampleInputs) -> Int32Array:
        return reference_sampling.sample(logits, inputs)

    def top_logprobs(self, logits: Any, tokens_S: Int32Array, k: int) -> TopLogprobs:
        return reference_sampling.top_logprobs(logits, tokens_S, k)


class ReferenceExecutable:
    """A program and the cache that it reads and writes."""

    def __init__(self, program: Program, kv_cache: ReferenceKVCache, limits: StepLimits) -> None:
        self.program = program
        self.kv_cache = kv_cache
        self.limits = limits
        self._states: FloatArray | None = None

    def states(self) -> FloatArray:
        """Of the last run, [S, D]."""
        if self._states is None:
            raise EngineError("the program names no states, or has not run")
        return self._states

    def run(self, inputs: StepInputs) -> FloatArray:
        """Logits [S, V], float32."""
        step = self._step(inputs)
        for op in self.program.ops:
            step.execute(op)
        if self.program.states is not None:
            self._states = step.read(self.program.states).astype(np.float32)
        assert self.program.output is not None  # checked by compile
        return step.read(self.program.output).astype(np.float32)

    def run_timed(self, inputs: StepInputs) -> Float64Array:
        """Seconds of each operation; nothing else takes any."""
        step = self._step(inputs)
        moments = [time.perf_counter()]
        for op in self.program.ops:
            step.execute(op)
            moments.append(time.perf_counter())
        return np.append(np.diff(moments), 0.0)

    def _step(self, inputs: StepInputs) -> _Step:
        if len(inputs.token_ids_T) > self.limits.max_tokens or len(inputs.sampled_rows_S) > self.limits.max_sampled:
            raise EngineError(f"the step is larger than {self.limits}")
        return _Step(self.kv_cache, inputs)


class _Step:
    """The buffers of one step."""

    def __init__(self, kv_cache: ReferenceKVCache, inputs: StepInputs) -> None:
        self.kv_cache = kv_cache
        self.inputs = inputs
        self.buffers: dict[int, FloatArray] = {}

    def read(self, value: Value) -> FloatArray:
        return self.buffers[value.buffer][:, value.offset : value.offset + value.width]

    def execute(self, op: ir.Op) -> None:
        if isinstance(op, ir.KVWrite):
            self._write_kv(op)
        else:
            self.buffers[op.out.buffer] = self._result(op)

    def _result(self, op: ir.Op) -> FloatArray:
        match op:
            case ir.Embedding(table, scale):
                result = reference.embedding(_array(table), self.inputs.token_ids_T, scale)
            case ir.States():
                if self.inputs.states_TD is None:
                    raise EngineError("the step brings no states")
                result = self.inputs.states_TD.astype(self.kv_cache.values.dtype)
            case ir.RmsNorm(x, weight, eps, groups):
                result = reference.rms_norm(self.read(x), _array(weight), eps, groups)
            case ir.Linear():
                result = self._linear(op)
            case ir.RopeTable(inv_freq, scale):
                result = reference.rope_table(self.inputs.positions_T, _array(inv_freq), scale)
            case ir.Rope(x, table, head_dim):
                result = reference.rope(self.read(x), self.read(table), head_dim)
            case ir.Attention():
                result = self._attention(op)
            case ir.GatedActivation(gate_up, activation):
                result = reference.gated_activation(self.read(gate_up), activation)
            case ir.Add(x, y):
                result = reference.add(self.read(x), self.read(y))
            case ir.Softcap(x, cap):
                result = reference.softcap(self.read(x), cap)
            case ir.Scale(x, factor):
                result = reference.scale(self.read(x), factor)
            case ir.HeadResiduals(x, z):
                result = reference.head_residuals(self.read(x), self.read(z))
            case ir.GatherRows(x):
                result = reference.gather_rows(self.read(x), self.inputs.sampled_rows_S)
            case _:
                raise EngineError(f"no reference for {op}")
        return cast(FloatArray, result)

    def _write_kv(self, op: ir.KVWrite) -> None:
        self.kv_cache.write(op.layer, self.read(op.k), self.read(op.v), self.inputs.slots_T)

    def _linear(self, op: ir.Linear) -> FloatArray:
        x_TD = self.read(op.x)
        parts = []
        for weight, bias in zip(op.weights, op.biases, strict=True):
            rounding = ACTIVATION_ROUNDING.get(weight.layout)
            read_TD = x_TD if rounding is None else rounding(x_TD)
            parts.append(reference.linear(read_TD, [_array(weight)], [None if bias is None else _array(bias)]))
        return np.concatenate(parts, axis=1)

    def _paths(self) -> reference.TreePaths | None:
        if self.inputs.parents_T is None:
            return None
        spec = self.kv_cache.spec
        by_channel = self.kv_cache.recent_keys is not self.kv_cache.keys
        round_block = reference_kv.round_channels if by_channel else None
        return reference.TreePaths(self.inputs.parents_T, self.inputs.slots_T, spec.block_size, round_block)

    def _attention(self, op: ir.Attention) -> FloatArray:
        result = reference.paged_attention(
            self.read(op.q),
            self.kv_cache.keys[op.layer],
            self.kv_cache.values[op.layer],
            self.inputs.query_starts_B1,
            self.inputs.context_lens_B,
            self.inputs.block_tables_BX,
            scale=op.scale,
            window=op.window,
            softcap=op.softcap,
            recent_keys=self.kv_cache.recent_keys[op.layer],
            paths=self._paths(),
        )
        return cast(FloatArray, result)


def _array(weight: Weight) -> FloatArray:
    return cast(FloatArray, weight.data)
