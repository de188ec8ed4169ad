"""What a backend is: allocation, packing, and a compiler for recorded programs. About ten methods.

Shape letters: T tokens of the step, S sampled rows, B sequences of the step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vivace.core.config import Choice, KVDtype
from vivace.formats.packed_file import PackedEntry
from vivace.formats.tensor import StoredTensor
from vivace.ops.program import Program, Weight

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt32Array = NDArray[np.uint32]
UInt64Array = NDArray[np.uint64]
StepProgress = Callable[[int, int], None]

KV_ELEMENT_BYTES: dict[str, int] = {"f32": 4, "bf16": 2, "f16": 2}
KV_CODE_BITS: dict[str, int] = {
    "int8_per_token_head": 8,
    "int4_per_token_head": 4,
    "int4_k_per_channel": 4,
    "fp8_e4m3": 8,
}
KV_UNIT = 16  # tokens: coded caches have block sizes that are multiples of it
MAX_CODED_HEAD_DIM = 512


@dataclass(frozen=True, slots=True)
class KVSpec:
    """Shape of the paged KV cache: every layer holds [num_blocks, num_kv_heads, block_size, head_dim], twice.

    What the types mean is in `vivace.ops.reference_kv`. Sizes are those of every backend: codes, their scales and
    minima (bfloat16 each; fp8 has scales alone) and the padding of head_dim, to 16 for int8 and fp8 and to 32, the
    group of a scale, for int4.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: KVDtype

    @property
    def bytes_per_block(self) -> int:
        """Of a block in all layers."""
        return self.num_layers * self.num_kv_heads * (self._key_bytes + self._value_bytes)

    @property
    def bytes_per_token(self) -> int:
        """A token's share of a block; rounded up where a block's scales do not divide evenly."""
        return -(-self.bytes_per_block // self.block_size)

    @property
    def recent_bytes_per_block(self) -> int:
        """Beside the pool, for each block that a running sequence is filling: its keys in 16 bits."""
        if self.dtype != "int4_k_per_channel":
            return 0
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.block_size

    @property
    def _padded_dim(self) -> int:
        multiple = 16 if KV_CODE_BITS[self.dtype] == 8 else 32
        return -(-self.head_dim // multiple) * multiple

    @property
    def _value_bytes(self) -> int:
        """Of one block of one KV head."""
        if self.dtype in KV_ELEMENT_BYTES:
            return self.block_size * self.head_dim * KV_ELEMENT_BYTES[self.dtype]
        bits = KV_CODE_BITS[self.dtype]
        groups = 1 if bits == 8 else self._padded_dim // 32
        scale_bytes = 2 if self.dtype == "fp8_e4m3" else 4
        return self.block_size * (scale_bytes * groups + self._padded_dim * bits // 8)

    @property
    def _key_bytes(self) -> int:
        if self.dtype == "int4_k_per_channel":
            return self._padded_dim * (4 + self.block_size // 2)
        return self._value_bytes


class KVCache(Protocol):
    """The paged cache of all layers."""

    spec: KVSpec
    num_blocks: int

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of every layer, in order: (source, destination)."""
        ...

    def move_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy single tokens in every layer, in order: (source slot, destination slot), numbered as in StepInputs."""
        ...

    def track(self, references: Sequence[int]) -> None:
        """Watch how many sequences use each block: a list that its owner keeps current. What is kept beside the pool
        for blocks that nobody uses any more is dropped when it grows; without this call it is kept."""
        ...


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The largest step that a compiled program must take. What else is known lets a device prepare for steps that
    only decode."""

    max_tokens: int  # T
    max_sampled: int  # S
    max_sequences: int | None = None  # of a step that decodes; None: max_sampled, 0: none does
    max_context: int | None = None  # None: as the cache has room for


@dataclass(slots=True)
class StepInputs:
    """The integers of one step. C-contiguous int32 arrays.

    Sequence b owns rows query_starts[b] : query_starts[b + 1]; its last row has position context_lens[b] - 1.
    The key of context position p of sequence b lives in block block_tables[b, p // block_size], slot
    p % block_size; slots[t] is block * block_size + slot of this step's token t.

    Guesses to verify may form a tree. Those that lie where they belong if they stand, one behind the other, are rows
    like others. Any other one is a sequence of one row, with its own sequence's block table and a slot behind all of
    them; parents_T names the row of the guess, or of the last token, that it follows, and is -1 for rows of the first
    kind. What it attends to is in `vivace.ops.program.Attention`. None: no row has a parent.

    Where the step before this one has not been read yet (`AsynchronousBackend`), token t is row drawn_rows_T[t] of
    what it drew, and token_ids_T[t] any token; -1: token_ids_T[t] is the one.
    """

    token_ids_T: Int32Array
    positions_T: Int32Array
    slots_T: Int32Array
    query_starts_B1: Int32Array  # [B + 1]
    context_lens_B: Int32Array
    block_tables_BX: Int32Array  # [B, any width]: only the entries that context_lens reaches are read
    sampled_rows_S: Int32Array
    parents_T: Int32Array | None = None
    states_TD: Any = None  # of programs that begin with States: float32, the host's
    state_rows_T: Int32Array | None = None  # asynchronous backends: states_TD is `Executable.states`, of which these
    drawn: Drawn | None = None
    drawn_rows_T: Int32Array | None = None


class Executable(Protocol):
    """A program compiled for one device and one KV cache."""

    def run(self, inputs: StepInputs) -> Any:
        """Run one step and return logits [S, V] in the backend's own array type (float32, valid until the
        next run)."""
        ...

    def states(self) -> Any:
        """Of the last run, [S, D]: a view, valid until the next one. For programs that name some."""
        ...

    def run_timed(self, inputs: StepInputs) -> Float64Array:
        """Run one step; the seconds of each operation, in the program's order, and at the end of what is none."""
        ...


NO_MASK_INDEX: Int32Array = np.zeros(0, np.int32)
NO_MASK: UInt32Array = np.zeros((0, 0), np.uint32)


@dataclass(slots=True)
class SampleInputs:
    """Parameters of each sampled row, in arrays of length S. Neutral values switch a step off.

    Order of application: mask, repetition penalty, frequency and presence penalties, logit bias, banned tokens;
    greedy rows (temperature 0) take the argmax, lowest id on ties; others divide by the temperature, keep
    top-k, then min-p (relative to the largest probability), then top-p of what is left, and draw by inverse
    CDF in the order of token ids with one uniform number.
    Sparse rows: history_starts[s] : history_starts[s + 1] is row s's range in history_tokens / history_counts
    (counts of output tokens; a prompt-only token has count 0 and still takes the repetition penalty); the same
    for bias_*; a bias of -inf bans the token.
    Masks: mask_index[s] is row s's row of mask_RW, or -1: every token is allowed. W = ceil(V / 32); bit b of word w
    allows token 32 w + b. Both are empty where no row has one.
    Where the step before has not been read yet, row s's last token is row drawn_rows_S[s] of what it drew: one more
    output token, which its history lacks; -1: the history is whole.
    """

    temperature_S: Float32Array
    top_k_S: Int32Array  # 0: off
    top_p_S: Float32Array  # 1: off
    min_p_S: Float32Array  # 0: off
    repetition_S: Float32Array  # 1: off
    presence_S: Float32Array
    frequency_S: Float32Array
    uniform_S: Float32Array  # in [0, 1): the counter-based random number of (seed, index, position)
    history_starts_S1: Int32Array
    history_tokens: Int32Array
    history_counts: Int32Array
    bias_starts_S1: Int32Array
    bias_tokens: Int32Array
    bias_values: Float32Array
    mask_index_S: Int32Array = field(default_factory=lambda: NO_MASK_INDEX)
    mask_RW: UInt32Array = field(default_factory=lambda: NO_MASK)
    drawn: Drawn | None = None
    drawn_rows_S: Int32Array | None = None


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """Natural-log probabilities of the raw distribution. Ranks start at 1; ties go to the lowest id."""

    logprob_S: Float32Array
    rank_S: Int32Array
    top_ids_SK: Int32Array
    top_logprobs_SK: Float32Array


@dataclass(frozen=True, slots=True)
class MeasuredCeilings:
    """What a device reached just now at what it does best. `operations_per_s`: by type of number (f32, bf16, int8,
    ...), only those that it has a unit for; a multiplication and an addition are two."""

    read_bytes_per_s: float
    operations_per_s: dict[str, float]


class Drawn(Protocol):
    """Tokens that were drawn, where the next step finds them."""

    def read(self) -> tuple[Int32Array, TopLogprobs | None]:
        """Wait for them: what `Backend.sample` and `Backend.top_logprobs` would have returned."""
        ...


class PackedReader(Protocol):
    """Takes packed matrices from one file. They stay valid when the file is closed."""

    note: str  # how, for `vivace doctor`

    def matrix(self, entry: PackedEntry, order: PackedEntry | None = None) -> Weight | None:
        """A matrix, with the order of its inputs where it has one; None if either is not there whole, or its checksum
        is another."""
        ...


class PackedStorage(Protocol):
    """Packed matrices as bytes: for a file that saves the next start the packing, and for copies."""

    version: str  # differs where the same matrix would be packed into other bytes

    def data(self, weight: Weight) -> NDArray[np.uint8]:
        """A read-only view of a packed matrix."""
        ...

    def order(self, weight: Weight) -> Int32Array | None:
        """The input that each packed column multiplies, where that is not the column's own number."""
        ...

    def checksum(self, data: NDArray[np.uint8]) -> int:
        """64 bits over packed bytes, at the speed of memory."""
        ...

    def reader(self, file: int, entries: Collection[PackedEntry]) -> PackedReader | None:
        """Of these matrices in an open file; None where it cannot be read."""
        ...

    def copy(self, name: str, weight: Weight) -> Weight:
        """The same matrix in memory of its own."""
        ...


class Backend(Protocol):
    """A device and the fast versions of the operations on it."""

    name: str

    @property
    def packed_storage(self) -> PackedStorage | None:
        """None where packed matrices do not leave the backend."""
        ...

    def free_bytes(self, utilization: float) -> int | None:
        """Memory that is left of this share of the device's; None where the device has none but the machine's."""
        ...

    def synchronize(self) -> None:
        """Wait for everything that was launched. Whoever reads a clock around a step does so after it: `run` may
        return before the device is done."""
        ...

    def measure_ceilings(self) -> MeasuredCeilings | None:
        """Memory and arithmetic at full speed, measured now: about a second. None for a backend that measures
        nothing."""
        ...

    def on_host(self, values: Any) -> Float32Array:
        """What an executable returned, for NumPy: the same memory where it is the host's, else a copy."""
        ...

    def encode(self, tensor: StoredTensor, encoding: str) -> StoredTensor:
        """A float matrix by round-to-nearest: bit for bit what `formats.quantize_rtn.encode` makes of its numbers,
        with its errors."""
        ...

    def pack(self, name: str, tensor: StoredTensor) -> Weight:
        """Repack a matrix [N, D] for the kernel that reads it. The stored bytes are not referenced afterwards."""
        ...

    def vector(self, name: str, values: Float32Array) -> Weight:
        """A float32 vector: norm weights, biases, rope frequencies."""
        ...

    def kv_cache(self, spec: KVSpec, num_blocks: int) -> KVCache: ...

    def compile(self, program: Program, kv_cache: KVCache, limits: StepLimits) -> Executable: ...

    def uniforms(self, seed_S: UInt64Array, index_S: Int32Array, position_S: Int32Array) -> Float32Array:
        """`vivace.ops.random.uniforms` of each row."""
        ...

    def sample(self, logits: Any, inputs: SampleInputs) -> Int32Array:
        """Token ids [S]. A row without any finite logit gives -1. `logits` is not changed."""
        ...

    def top_logprobs(self, logits: Any, tokens_S: Int32Array, k: int) -> TopLogprobs:
        """The chosen tokens' and the k most likely tokens' values of each row's raw log-softmax."""
        ...


@runtime_checkable
class AsynchronousBackend(Backend, Protocol):
    """One whose steps run while the host goes on. `Executable.run`, `KVCache.copy_blocks` and `draw` return before
    they are done, and what they are given next begins after that. `StepInputs.drawn` and `SampleInputs.drawn` may
    then be what the last step drew, whether it was read or not."""

    def draw(self, logits: Any, inputs: SampleInputs, num_logprobs: int | None) -> Drawn:
        """Token ids of each row, and where `num_logprobs` is a number, their log probabilities with the values of as
        many most likely tokens."""
        ...

    def step_bytes(
        self, program: Program, spec: KVSpec, limits: StepLimits, max_context: int, progress: StepProgress | None
    ) -> int:
        """Memory of the device that steps take beside weights and cache, measured: by the largest ones, of
        `limits.max_tokens` tokens for `limits.max_sequences` sequences (None: `max_sampled`), and by what `prepare`
        keeps. Raises
        `EngineError` or `ConfigError` where they do not fit."""
        ...

    def prepare(self, executable: Executable, progress: StepProgress | None) -> Choice | None:
        """Record steps that only decode, to be replayed; and what came of it. `progress(done, total)` counts them.
        None where this backend records nothing. Raises `ConfigError` where the memory does not hold them."""
        ...
