"""The CUDA backend: weights, cache and programs on a device, by torch.

Shape letters: T tokens of the step, S sampled rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from vivace.backends.cuda import logprobs
from vivace.backends.cuda.attention_choice import check_installed
from vivace.backends.cuda.ceilings import measure_ceilings
from vivace.backends.cuda.device import DeviceFacts, facts, open_device, running_on
from vivace.backends.cuda.drawn import DrawnTokens, Sampler, draw
from vivace.backends.cuda.driver import driver_of
from vivace.backends.cuda.executable import DEFAULT_GRAPHS, CudaExecutable
from vivace.backends.cuda.graph_buckets import GraphOptions
from vivace.backends.cuda.kernels.registry import KernelRegistry
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.largest_step import measured_bytes
from vivace.backends.cuda.matrix import load_matrix
from vivace.backends.cuda.transfer import Upload
from vivace.core.config import AttentionBackend, Choice
from vivace.core.errors import ConfigError, EngineError
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.ops.backend import (
    Executable,
    Float32Array,
    Int32Array,
    KVCache,
    KVSpec,
    MeasuredCeilings,
    SampleInputs,
    StepLimits,
    StepProgress,
    TopLogprobs,
    UInt64Array,
)
from vivace.ops.program import Program, Weight
from vivace.ops.random import row_uniforms


class CudaBackend:
    """torch tensors on `cuda`, `cuda:N`, or for tests on torch's `cpu` device. Raises `ConfigError`.

    Products of CUDA libraries choose their order of sums by the number of rows: on a GPU results may depend on the
    batch by a rounding, where the CPU backend's never do. See `precision` for the types. `kernels` knows which
    operations Triton's kernels run; `interpreted`: all that they can, in Triton's interpreter, for tests.
    `attention`: see `attention_choice`.
    """

    name = "cuda"

    def __init__(
        self,
        device: str = "cuda",
        *,
        interpreted: bool = False,
        attention: AttentionBackend = "auto",
        graphs: GraphOptions = DEFAULT_GRAPHS,
    ) -> None:
        self.device = open_device(device)
        self.driver = driver_of(self.device)
        self._graphs = graphs
        check_installed(attention)
        self.kernels = KernelRegistry(self.device, interpreted=interpreted, attention=attention)

    @property
    def facts(self) -> DeviceFacts | None:
        """What the device is; None for torch's CPU device."""
        return facts(self.device)

    @cached_property
    def _upload(self) -> Upload:
        return Upload(self.device)

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.kernels, self._upload)

    @property
    def packed_storage(self) -> None:
        """Matrices are on the device as their files have them: reading them again is as fast as any copy."""
        return None

    def free_bytes(self, utilization: float) -> int | None:
        """Memory that is left of this share of the device's; None where it is the machine's own."""
        if self.device.type == "cpu":
            return None
        torch.cuda.empty_cache()
        free_bytes, memory_bytes = torch.cuda.mem_get_info(self.device)
        return max(0, free_bytes - int(memory_bytes * (1 - utilization)))

    def step_bytes(
        self,
        program: Program,
        spec: KVSpec,
        limits: StepLimits,
        max_context: int,
        progress: StepProgress | None = None,
    ) -> int:
        """Memory that steps take beside weights and cache, measured by the largest ones and by all CUDA graphs.
        `limits.max_sequences`: the most of a step; None: `max_sampled`. Raises `EngineError` where not even the steps
        fit, `ConfigError` where the graphs do not. 0 on torch's CPU device."""
        if self.driver is None:
            return 0
        most = limits.max_sampled if limits.max_sequences is None else limits.max_sequences
        limits = replace(limits, max_sequences=most, max_context=max_context)
        with running_on(self.device):
            executable = self.compile(program, CudaKVCache(spec, 1, self.device), limits)
            num_bytes = measured_bytes(executable, self._sampler, limits, max_context, self.driver, progress)
            del executable
            self.driver.release()
        return num_bytes

    def prepare(self, executable: Executable, progress: StepProgress | None = None) -> Choice | None:
        """Capture CUDA graphs of steps that decode, unless they were put off; what came of it. None where there are
        none. Raises `ConfigError` with the numbers where the memory does not hold them."""
        if self.driver is None or not isinstance(executable, CudaExecutable):
            return None
        graphs = executable.graphs
        if not graphs.is_active:
            grows = "this cache grows beside its pool, where a graph cannot follow"
            return Choice("cuda_graphs", "none", grows if self._graphs.enabled else "as asked")
        if not graphs.at_start:
            return Choice("cuda_graphs", "at first use", f"as asked; {len(graphs.buckets)} at most")
        with running_on(self.device):
            self.driver.release()
            before, _ = self.driver.memory()
            graphs.capture(progress)
            self.driver.release()
            num_bytes = max(0, before - self.driver.memory()[0])
        sizes = ", ".join(str(rows) for rows in sorted({bucket.rows for bucket in graphs.buckets}))
        return Choice("cuda_graphs", graphs.num_captured, f"for {sizes} rows; {num_bytes / 2**30:.2f} GiB, measured")

    def encode(self, tensor: StoredTensor, encoding: str) -> StoredTensor:
        """A float matrix by round-to-nearest, on the host."""
        return encode(dequantize(tensor), encoding, tensor.name)

    def pack(self, name: str, tensor: StoredTensor) -> Weight:
        """Send a matrix [N, D] of any encoding, with as many bits as it has."""
        with running_on(self.device), self._memory_for(name, tensor.data.nbytes):  # its stream, not the first device's
            matrix = load_matrix(tensor, self.device)
        return Weight(name, (matrix.num_rows, matrix.num_columns), tensor.encoding, matrix.num_bytes, matrix)

    def vector(self, name: str, values: Float32Array) -> Weight:
        """A float32 vector: norm weights, biases, rope frequencies."""
        flat = np.array(values, dtype=np.float32)
        if flat.ndim != 1 or not flat.size:
            raise EngineError(f"{name}: a vector is needed, not shape {flat.shape}")
        return Weight(name, flat.shape, "f32", flat.nbytes, torch.from_numpy(flat).to(self.device))

    def kv_cache(self, spec: KVSpec, num_blocks: int) -> CudaKVCache:
        with self._memory_for(f"a KV cache of {num_blocks} blocks", num_blocks * spec.bytes_per_block):
            return CudaKVCache(spec, num_blocks, self.device)

    def compile(self, program: Program, kv_cache: KVCache, limits: StepLimits) -> CudaExecutable:
        if not isinstance(kv_cache, CudaKVCache):
            raise EngineError(f"the KV cache belongs to another backend: {type(kv_cache).__name__}")
        with running_on(self.device):
            return CudaExecutable(program, kv_cache, limits, self.kernels, self._graphs, self.driver)

    def uniforms(self, seed_S: UInt64Array, index_S: Int32Array, position_S: Int32Array) -> Float32Array:
        """Drawn on the host."""
        return row_uniforms(seed_S, index_S, position_S)

    def sample(self, logits: Any, inputs: SampleInputs) -> Int32Array:
        """Token ids [S], waiting for them."""
        return self.draw(logits, inputs, None).read()[0] if len(logits) else np.zeros(0, np.int32)

    def draw(self, logits: Any, inputs: SampleInputs, num_logprobs: int | None) -> DrawnTokens:
        """Token ids of at least one row; to read them is the step's one wait for the device."""
        with running_on(self.device):
            return draw(logits, inputs, num_logprobs, self._sampler)

    def top_logprobs(self, logits: Any, tokens_S: Int32Array, k: int) -> TopLogprobs:
        """The chosen tokens' and the k most likely tokens' values of each row's raw log-softmax."""
        logprobs.check(tokens_S, len(logits), k, logits.shape[1])
        if not len(logits):
            return logprobs.read_table(np.zeros((0, 3 + 2 * k), np.int32), k)[1]
        with running_on(self.device):
            sent = self._upload.send({"tokens": tokens_S})["tokens"]
            return logprobs.read_table(self._sampler.table_of(logits, sent, k).cpu().numpy(), k)[1]

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure_ceilings(self) -> MeasuredCeilings | None:
        """Of the GPU; None on torch's CPU device."""
        if self.device.type == "cpu":
            return None
        with running_on(self.device):
            return measure_ceilings(self.device)

    def on_host(self, values: Any) -> Float32Array:
        """A NumPy array with what an executable returned."""
        array: Float32Array = values.cpu().numpy()
        return array

    @contextmanager
    def _memory_for(self, what: str, num_bytes: int) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            free, total = torch.cuda.mem_get_info(self.device)
            raise ConfigError(
                f"{what} takes {num_bytes / 2**30:.2f} GiB, and {self.device} has {free / 2**30:.2f} of "
                f"{total / 2**30:.1f} GiB free: use --quantization int4, a smaller --max-model-len or "
                "--gpu-memory-utilization, or another device"
            ) from error
