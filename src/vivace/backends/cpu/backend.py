"""The CPU backend: packed weights, a paged cache and programs of the native module.

Shape letters: T tokens of the step, S sampled rows, V vocabulary, N x D matrix, K most likely tokens wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from vivace.backends.cpu import _native
from vivace.backends.cpu.detect import available_cores, measure
from vivace.backends.cpu.encoding import encode
from vivace.backends.cpu.lowering import Lowered, lower
from vivace.backends.cpu.packed_storage import CpuPackedStorage
from vivace.backends.cpu.tuning import LinearTuner
from vivace.core.config import KVDtype
from vivace.core.errors import ConfigError, EngineError, UnsupportedError
from vivace.formats.tensor import StoredTensor, row_bytes
from vivace.ops.backend import (
    Float32Array,
    Float64Array,
    Int32Array,
    KVCache,
    KVSpec,
    MeasuredCeilings,
    SampleInputs,
    StepInputs,
    StepLimits,
    TopLogprobs,
    UInt64Array,
)
from vivace.ops.program import Linear, Program, Rows, Weight

# csrc/linear.h and csrc/kv_layout.h count them in this order.
LAYOUTS = (
    *("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"),
    *("int4_g32", "int4_g64", "int4_g128", "int8_channel", "int8_outlier"),
)
KV_DTYPES: tuple[KVDtype, ...] = tuple(name for name in get_args(KVDtype) if name != "fp8_e4m3")  # a GPU's
SPARE_RECENT_BLOCKS = 64  # a look for unused ones is worth it only once there are so many more than used ones
MAX_THREADS = 1024


class CpuKVCache:
    """The paged cache of all layers, in huge pages. Memory is taken when a block is first written."""

    def __init__(self, device: _native.Device, spec: KVSpec, num_blocks: int) -> None:
        self._device = device
        self.spec = spec
        self.num_blocks = num_blocks
        self._references: Sequence[int] | None = None
        self._recent_limit = SPARE_RECENT_BLOCKS
        try:
            self.native = _native.KVCache(
                KV_DTYPES.index(spec.dtype),
                spec.num_layers,
                spec.num_kv_heads,
                spec.head_dim,
                spec.block_size,
                num_blocks,
            )
        except ValueError as error:
            raise EngineError(f"KV cache of {num_blocks} blocks, {spec}: {error}") from error
        except MemoryError as error:
            raise ConfigError(
                f"no address space for a KV cache of {num_blocks} blocks of {spec.block_size} tokens; ask for fewer"
            ) from error

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of every layer, in order: (source, destination)."""
        try:
            self.native.copy_blocks(pairs)
        except ValueError as error:
            raise EngineError(str(error)) from error

    def move_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy single tokens in every layer, in order: (source slot, destination slot)."""
        try:
            self.native.move_tokens(self._device, pairs)
        except ValueError as error:
            raise EngineError(str(error)) from error

    def track(self, references: Sequence[int]) -> None:
        """Watch the blocks' counts of users, to drop the 16-bit keys of blocks that nobody uses any more."""
        self._references = references

    def drop_unused(self) -> None:
        """Once there are a quarter and 64 more 16-bit blocks than were in use, look which of them are still."""
        num_held = self.native.num_recent
        if self._references is None or num_held <= self._recent_limit:
            return
        unused = [block for block in self.native.recent_blocks() if self._references[block] == 0]
        self.native.drop_recent(unused)
        num_used = num_held - len(unused)
        self._recent_limit = num_used + num_used // 4 + SPARE_RECENT_BLOCKS


class CpuExecutable:
    """A native program. One `run` is one call with the GIL released."""

    def __init__(self, lowered: Lowered, kv_cache: CpuKVCache, output_rows: Rows) -> None:
        native = lowered.program
        self._kv_cache = kv_cache
        self._run = native.run
        self._output = native.output()
        self._states = lowered.states
        self._num_ops = native.num_ops
        self._output_rows = output_rows
        self._num_sampled = 0

    def run(self, inputs: StepInputs) -> Float32Array:
        """Logits [S, V]: a view of the program's memory, valid until the next run."""
        self._replay(inputs, None)
        self._num_sampled = len(inputs.sampled_rows_S)
        rows = inputs.sampled_rows_S if self._output_rows is Rows.SAMPLED else inputs.token_ids_T
        return self._output[: len(rows)]

    def states(self) -> Float32Array:
        """Of the last run, [S, D]: a view, valid until the next one."""
        if self._states is None:
            raise EngineError("the program names no states")
        return self._states[: self._num_sampled]

    def run_timed(self, inputs: StepInputs) -> Float64Array:
        """Seconds of each operation, and at the end of the checks before them."""
        op_seconds = np.empty(self._num_ops + 1)
        self._replay(inputs, op_seconds)
        return op_seconds

    def _replay(self, inputs: StepInputs, op_seconds: Float64Array | None) -> None:
        if self._kv_cache.spec.recent_bytes_per_block:
            self._kv_cache.drop_unused()
        try:
            self._run(
                inputs.token_ids_T,
                inputs.positions_T,
                inputs.slots_T,
                inputs.query_starts_B1,
                inputs.context_lens_B,
                inputs.block_tables_BX,
                inputs.sampled_rows_S,
                inputs.parents_T,
                inputs.states_TD,
                op_seconds,
            )
        except (ValueError, TypeError) as error:
            raise EngineError(f"the step was refused: {error}") from error


class CpuBackend:
    """Native kernels on `num_threads` threads (default: the cores that this process may use).

    `isa` forces one instruction set of `instruction_sets()`; the default is the fastest. Raises `ConfigError`.
    """

    name = "cpu"

    def __init__(self, num_threads: int | None = None, isa: str | None = None) -> None:
        threads = available_cores() if num_threads is None else num_threads
        if not 1 <= threads <= MAX_THREADS:
            raise ConfigError(f"num_threads must be from 1 to {MAX_THREADS}, got {threads}")
        if isa is not None and isa not in instruction_sets():
            raise ConfigError(
                f"instruction set {isa!r} is not one of this machine's: {', '.join(instruction_sets())}"
            )
        self._device = _native.Device(threads, isa or "")
        self._tuner = LinearTuner(self._device, LAYOUTS)

    @property
    def num_threads(self) -> int:
        return self._device.num_threads

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return self._device.isa

    @property
    def device(self) -> _native.Device:
        """The native device, for measurements."""
        return self._device

    @property
    def packed_storage(self) -> CpuPackedStorage:
        """Packed matrices as bytes."""
        return CpuPackedStorage(self._device, LAYOUTS)

    def free_bytes(self, utilization: float) -> int | None:  # noqa: ARG002 -- of a device with memory of its own
        """Memory is the machine's."""
        return None

    def synchronize(self) -> None:
        """Nothing runs behind a call."""

    def measure_ceilings(self) -> MeasuredCeilings:
        """With this backend's threads and instruction set."""
        found = measure(self._device)
        peaks = {
            "f32": found.f32_operations_per_s,
            "bf16": found.bf16_operations_per_s,
            "int8": found.int8_operations_per_s,
        }
        return MeasuredCeilings(found.read_bytes_per_s, {name: peak for name, peak in peaks.items() if peak})

    def on_host(self, values: Any) -> Float32Array:
        """The same array."""
        array: Float32Array = values
        return array

    def encode(self, tensor: StoredTensor, encoding: str) -> StoredTensor:
        """A float matrix by round-to-nearest, in parallel to q8_0 and q4_0. Raises `UnsupportedError` where the
        encoding cannot hold it."""
        return encode(self._device, tensor, encoding, LAYOUTS)

    def pack(self, name: str, tensor: StoredTensor) -> Weight:
        """Repack a matrix [N, D], in parallel, into huge pages. The stored bytes are not referenced afterwards.

        8-bit floats become bfloat16: no processor multiplies them, and int8 by rows would round them once more."""
        if tensor.encoding == "fp8_channel":
            tensor = encode(self._device, tensor, "bf16", LAYOUTS)
        if tensor.encoding not in LAYOUTS:
            raise UnsupportedError(f"{name}: no CPU kernel reads {tensor.encoding}; known: {', '.join(LAYOUTS)}")
        if len(tensor.shape) != 2:
            raise EngineError(f"{name}: pack needs a matrix, not shape {tensor.shape}")
        rows, columns = tensor.shape
        if tensor.data.shape != (rows, row_bytes(tensor.encoding, columns)):
            raise EngineError(f"{name}: {tensor.data.shape} bytes do not hold {tensor.shape} of {tensor.encoding}")
        order = None if tensor.input_order is None else np.ascontiguousarray(tensor.input_order, np.int32)
        if order is not None and not np.array_equal(np.sort(order), np.arange(columns)):
            raise EngineError(f"{name}: input_order is not an order of its {columns} inputs")
        data = self._device.pack(LAYOUTS.index(tensor.encoding), tensor.data, columns, order)
        return Weight(name, (rows, columns), tensor.encoding, data.num_bytes, data)

    def vector(self, name: str, values: Float32Array) -> Weight:
        """A float32 vector: norm weights, biases, rope frequencies."""
        flat = np.ascontiguousarray(values, dtype=np.float32)
        if flat.ndim != 1 or not flat.size:
            raise EngineError(f"{name}: a vector is needed, not shape {flat.shape}")
        return Weight(name, flat.shape, "f32", flat.nbytes, self._device.vector(flat))

    def kv_cache(self, spec: KVSpec, num_blocks: int) -> CpuKVCache:
        return CpuKVCache(self._device, spec, num_blocks)

    def compile(self, program: Program, kv_cache: KVCache, limits: StepLimits) -> CpuExecutable:
        if not isinstance(kv_cache, CpuKVCache):
            raise EngineError(f"the KV cache belongs to another backend: {type(kv_cache).__name__}")
        lowered = lower(program, self._device, kv_cache.native, limits)
        self._tuner.tune(weight for op in program.ops if isinstance(op, Linear) for weight in op.weights)
        assert program.output is not None  # checked by lower
        return CpuExecutable(lowered, kv_cache, program.output.rows)

    def uniforms(self, seed_S: UInt64Array, index_S: Int32Array, position_S: Int32Array) -> Float32Array:
        """The numbers of `vivace.ops.random.uniforms`: 3 us for 64 rows, where NumPy's calls take 100 to 190."""
        uniform_S = np.empty(len(seed_S), np.float32)
        _native.uniforms(seed_S, index_S, position_S, uniform_S)
        return uniform_S

    def sample(self, logits: Any, inputs: SampleInputs) -> Int32Array:
        """Token ids [S]. A row with a NaN or +inf, or without any finite logit, gives -1."""
        tokens_S = np.empty(len(logits), np.int32)
        try:
            _native.sample(
                self._device,
                logits,
                inputs.temperature_S,
                inputs.top_k_S,
                inputs.top_p_S,
                inputs.min_p_S,
                inputs.repetition_S,
                inputs.presence_S,
                inputs.frequency_S,
                inputs.uniform_S,
                inputs.history_starts_S1,
                inputs.history_tokens,
                inputs.history_counts,
                inputs.bias_starts_S1,
                inputs.bias_tokens,
                inputs.bias_values,
                inputs.mask_index_S,
                inputs.mask_RW,
                tokens_S,
            )
        except (ValueError, TypeError) as error:
            raise EngineError(f"sampling was refused: {error}") from error
        return tokens_S

    def top_logprobs(self, logits: Any, tokens_S: Int32Array, k: int) -> TopLogprobs:
        """The chosen tokens' and the k most likely tokens' values of each row's raw log-softmax."""
        num_rows = len(logits)
        logprob_S, rank_S = np.empty(num_rows, np.float32), np.empty(num_rows, np.int32)
        top_ids_SK, top_logprobs_SK = np.empty((num_rows, k), np.int32), np.empty((num_rows, k), np.float32)
        try:
            _native.top_logprobs(self._device, logits, tokens_S, logprob_S, rank_S, top_ids_SK, top_logprobs_SK)
        except (ValueError, TypeError) as error:
            raise EngineError(f"top_logprobs was refused: {error}") from error
        return TopLogprobs(logprob_S, rank_S, top_ids_SK, top_logprobs_SK)


def instruction_sets() -> list[str]:
    """The instruction sets that this build has kernels for and this machine runs, slowest first."""
    return _native.isa_names()
