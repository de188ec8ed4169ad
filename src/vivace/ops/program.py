"""A model's step as a list of operations, recorded once and replayed by a backend.

Model code calls the recording methods of `Program` on `Value`s that it does not look into. A backend
compiles the finished program for its device; the counts of tokens and sampled rows stay run-time values.

Values are matrices of activations, one row a token. Their precision is the backend's choice (float32 on CPU).
Shape letters: T tokens of the step, S sampled rows (logits wanted), D any width, H query heads, G key/value
heads, K head dimension, F feed-forward width, N outputs of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from vivace.core.errors import EngineError

Activation = Literal["silu", "gelu", "gelu_tanh"]


class Rows(Enum):
    """How many rows a value has: known only at run time."""

    TOKENS = "tokens"  # T: every token of the step
    SAMPLED = "sampled"  # S: only rows whose logits are wanted


@dataclass(frozen=True, slots=True)
class Value:
    """A matrix [rows, width]: columns `offset : offset + width` of the buffer `buffer`, itself `stride` wide."""

    buffer: int
    rows: Rows
    stride: int
    offset: int
    width: int

    def columns(self, start: int, stop: int) -> Value:
        """A view of columns [start, stop): no copy."""
        if not 0 <= start < stop <= self.width:
            raise EngineError(f"columns {start}:{stop} of a value {self.width} wide")
        return Value(self.buffer, self.rows, self.stride, self.offset + start, stop - start)


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A parameter as a backend holds it. `data` belongs to the backend; nobody else looks into it.

    A matrix computes y_N = W_ND x_D and has shape (N, D); a vector has shape (D,).
    `layout` is the packed layout's name (`f32`, `bf16`, `f16`, `q8_0`, `q4_k`, ...).
    """

    name: str
    shape: tuple[int, ...]
    layout: str
    num_bytes: int
    data: object


@dataclass(frozen=True, slots=True)
class Embedding:
    """out_TD = table_VD[token_ids_T] * scale. The table may be any matrix layout (a tied lm_head included)."""

    table: Weight
    scale: float
    out: Value


@dataclass(frozen=True, slots=True)
class States:
    """out_TD = the rows that the step brings with it (`StepInputs.states_TD`): hidden states of another program."""

    out: Value


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Root-mean-square norm (Zhang and Sennrich, 2019) of each of `groups` equal column groups:
    out = x / sqrt(mean(x^2) + eps) * weight. weight has width / groups elements. groups > 1 is q/k norm by head.
    """

    x: Value
    weight: Weight
    eps: float
    groups: int
    out: Value


@dataclass(frozen=True, slots=True)
class Linear:
    """out[:, columns of part i] = x @ weights[i].T + biases[i]: one or more matrices side by side (q, k, v).

    An output element is summed in an order that depends on nothing but the weight: not on T, not on threads.
    """

    x: Value
    weights: tuple[Weight, ...]
    biases: tuple[Weight | None, ...]
    out: Value


@dataclass(frozen=True, slots=True)
class RopeTable:
    """out[t] = [cos(positions[t] * inv_freq) * scale, sin(positions[t] * inv_freq) * scale], 2 x len(inv_freq)
    columns, computed once a step and read by every layer. The angle is rounded to float32, as everywhere else.
    """

    inv_freq: Weight
    scale: float
    out: Value


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al., 2021), half-split pairs: within each head of `head_dim` columns the
    first `table.width` columns are rotated, pairing column i with i + table.width / 2; the rest passes through.
    """

    x: Value
    table: Value
    head_dim: int
    out: Value


@dataclass(frozen=True, slots=True)
class KVWrite:
    """Keys and values of this step's tokens go to their slots in the paged cache of `layer`. k, v: [T, G*K]."""

    k: Value
    v: Value
    layer: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Causal attention of each token over its own sequence's cached keys and values (this step's included).

    q, out: [T, H*K]. Query head h reads key/value head h // (H / G). scores = softcap(q.k * scale) where
    softcap(s) = cap * tanh(s / cap) if softcap is set. A token at position p sees positions
    max(0, p - window + 1) .. p, or all up to p when window is None. Online softmax over blocks in the order of
    positions (FlashAttention; Dao et al., 2022), so that the sum's order depends on p alone.

    A row with a parent (`StepInputs.parents_T`) sees its own path: at its position and those of its ancestors that
    have parents too, their keys and values; before them its sequence's. Its sum has the order that it would have if
    the path were the sequence's own tokens: once they are, the numbers are the same to the bit.
    """

    q: Value
    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    softcap: float | None
    out: Value


@dataclass(frozen=True, slots=True)
class GatedActivation:
    """out_TF = activation(gate_up[:, :F]) * gate_up[:, F:]. gate_up: [T, 2F]."""

    gate_up: Value
    activation: Activation
    out: Value


@dataclass(frozen=True, slots=True)
class Add:
    """out = x + y."""

    x: Value
    y: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Softcap:
    """out = cap * tanh(x / cap)."""

    x: Value
    cap: float
    out: Value


@dataclass(frozen=True, slots=True)
class Scale:
    """out = x * factor."""

    x: Value
    factor: float
    out: Value


@dataclass(frozen=True, slots=True)
class HeadResiduals:
    """out_SD[t * K + k] = x_TD[t] + silu(z[t, k * D : (k + 1) * D]), S = T * K: the residual blocks of K Medusa heads
    (Cai et al., 2024) side by side, one row a head. A program with it samples K rows of every token."""

    x: Value
    z: Value
    out: Value


@dataclass(frozen=True, slots=True)
class GatherRows:
    """out_SD = x_TD[sampled_rows_S]: keeps only the rows whose logits are wanted."""

    x: Value
    out: Value


Op = (
    Embedding
    | States
    | RmsNorm
    | Linear
    | RopeTable
    | Rope
    | KVWrite
    | Attention
    | GatedActivation
    | Add
    | Softcap
    | Scale
    | HeadResiduals
    | GatherRows
)


@dataclass(slots=True)
class Program:
    """Operations in order. Each recording method appends one operation and returns the value it defines.

    `states`, where set, can be read after a run like the output: [S, D], what the output was made of.
    """

    ops: list[Op] = field(default_factory=list)
    output: Value | None = None
    states: Value | None = None
    num_buffers: int = 0

    def _value(self, rows: Rows, width: int) -> Value:
        value = Value(self.num_buffers, rows, width, 0, width)
        self.num_buffers += 1
        return value

    def embedding(self, table: Weight, scale: float = 1.0) -> Value:
        out = self._value(Rows.TOKENS, table.shape[1])
        self.ops.append(Embedding(table, scale, out))
        return out

    def given_states(self, width: int) -> Value:
        out = self._value(Rows.TOKENS, width)
        self.ops.append(States(out))
        return out

    def rms_norm(self, x: Value, weight: Weight, eps: float, groups: int = 1) -> Value:
        if x.width != weight.shape[0] * groups:
            raise EngineError(
                f"rms_norm: {weight.name} has {weight.shape[0]} x {groups}, the value {x.width} columns"
            )
        out = self._value(x.rows, x.width)
        self.ops.append(RmsNorm(x, weight, eps, groups, out))
        return out

    def linear(self, x: Value, weights: Sequence[Weight], biases: Sequence[Weight | None] | None = None) -> Value:
        for weight in weights:
            if weight.shape[1] != x.width:
                raise EngineError(f"linear: {weight.name} has shape {weight.shape}, the value {x.width} columns")
        out = self._value(x.rows, sum(weight.shape[0] for weight in weights))
        self.ops.append(Linear(x, tuple(weights), tuple(biases or [None] * len(weights)), out))
        return out

    def rope_table(self, inv_freq: Weight, scale: float = 1.0) -> Value:
        out = self._value(Rows.TOKENS, 2 * inv_freq.shape[0])
        self.ops.append(RopeTable(inv_freq, scale, out))
        return out

    def rope(self, x: Value, table: Value, head_dim: int) -> Value:
        out = self._value(x.rows, x.width)
        self.ops.append(Rope(x, table, head_dim, out))
        return out

    def kv_write(self, k: Value, v: Value, layer: int) -> None:
        self.ops.append(KVWrite(k, v, layer))

    def attention(
        self,
        q: Value,
        layer: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Value:
        out = self._value(q.rows, q.width)
        self.ops.append(Attention(q, layer, num_heads, num_kv_heads, head_dim, scale, window, softcap, out))
        return out

    def gated_activation(self, gate_up: Value, activation: Activation) -> Value:
        out = self._value(gate_up.rows, gate_up.width // 2)
        self.ops.append(GatedActivation(gate_up, activation, out))
        return out

    def add(self, x: Value, y: Value) -> Value:
        out = self._value(x.rows, x.width)
        self.ops.append(Add(x, y, out))
        return out

    def softcap(self, x: Value, cap: float) -> Value:
        out = self._value(x.rows, x.width)
        self.ops.append(Softcap(x, cap, out))
        return out

    def scale(self, x: Value, factor: float) -> Value:
        out = self._value(x.rows, x.width)
        self.ops.append(Scale(x, factor, out))
        return out

    def head_residuals(self, x: Value, z: Value) -> Value:
        if z.width % x.width:
            raise EngineError(f"head_residuals: {z.width} columns are not heads of {x.width}")
        out = self._value(Rows.SAMPLED, x.width)
        self.ops.append(HeadResiduals(x, z, out))
        return out

    def gather_rows(self, x: Value) -> Value:
        out = self._value(Rows.SAMPLED, x.width)
        self.ops.append(GatherRows(x, out))
        return out
