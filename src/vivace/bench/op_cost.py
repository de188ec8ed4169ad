"""What each operation of a step must do at least: bytes moved, arithmetic, and the unit that does it.

Matrices are read once a step; a table by the rows that are looked up. Attention reads each sequence's keys and
values once, for all query heads. Activations are rows, float32 on a processor and bfloat16 on a GPU, read and written
once by each operation: in decode they stay in the caches, in a chunk of 512 tokens they do not. A multiplication and
an addition are two operations; the few of an element outside products and attention are counted roughly.
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.ops import program as ir
from vivace.ops.backend import KVSpec
from vivace.ops.program import Rows, Value, Weight

ROLES = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
# Operations an element, by what the kernels do: an exponential is about twenty.
NORM_OPERATIONS, ROPE_OPERATIONS, ANGLE_OPERATIONS, ACTIVATION_OPERATIONS = 4, 3, 40, 25


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a backend computes with: bytes of an activation, and the arithmetic unit of a matrix layout."""

    value_bytes: int
    units: dict[str, str]
    other_unit: str
    cache_units: dict[str, str]  # of keys and values; of other types bf16

    def unit(self, layout: str) -> str:
        return "fp8" if "fp8" in layout else self.units.get(layout, self.other_unit)


HOST = Numbers(4, {"f32": "f32", "f16": "f32", "bf16": "bf16"}, "int8", {"f32": "f32", "f16": "f32"})
# On a GPU values are bfloat16, and codes become bfloat16 before they are multiplied, but for int8 by rows.
DEVICE = Numbers(2, {"f32": "f32", "int8_channel": "int8", "int8_outlier": "int8"}, "bf16", {})


def numbers_of(backend: str) -> Numbers:
    """By the backend's name."""
    return DEVICE if backend == "cuda" else HOST


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step: new tokens of each sequence and its context after them. The last row of each is sampled."""

    new_tokens: tuple[int, ...]
    context_lens: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return sum(self.new_tokens)

    def rows(self, value: Value) -> int:
        return self.num_tokens if value.rows is Rows.TOKENS else len(self.new_tokens)

    def pairs(self, window: int | None) -> int:
        """(query, key) pairs of one head, all sequences."""
        total = 0
        for new, context in zip(self.new_tokens, self.context_lens, strict=True):
            seen = range(context - new + 1, context + 1)
            total += sum(seen) if window is None else sum(min(window, length) for length in seen)
        return total

    def keys_read(self, window: int | None) -> int:
        """Positions whose keys and values attention needs, all sequences."""
        lengths = zip(self.new_tokens, self.context_lens, strict=True)
        return sum(context if window is None else min(context, window + new - 1) for new, context in lengths)


@dataclass(frozen=True, slots=True)
class OpCost:
    """`role` groups operations: where in the model they are. `unit` is the arithmetic that they need."""

    role: str
    num_bytes: float
    operations: float
    unit: str = "f32"


def op_cost(op: ir.Op, step: StepShape, kv_spec: KVSpec, numbers: Numbers = HOST) -> OpCost:
    """The cost of one operation in a step."""
    match op:
        case ir.Linear():
            return _linear(op, step, numbers)
        case ir.Attention():
            return _attention(op, step, kv_spec, numbers)
        case ir.Embedding(table, _, out):
            row_bytes = table.num_bytes / table.shape[0] + out.width * numbers.value_bytes
            return OpCost("embedding", step.num_tokens * row_bytes, step.num_tokens * out.width)
        case ir.KVWrite(k, v, _):
            moved = (k.width + v.width) * numbers.value_bytes + kv_spec.bytes_per_token / kv_spec.num_layers
            return OpCost("kv_write", step.num_tokens * moved, step.num_tokens * (k.width + v.width))
    return _elementwise(op, step, numbers.value_bytes)


def _linear(op: ir.Linear, step: StepShape, numbers: Numbers) -> OpCost:
    rows = step.rows(op.out)
    elements = sum(weight.shape[0] * weight.shape[1] for weight in op.weights)
    activations = rows * (op.x.width + op.out.width) * numbers.value_bytes
    num_bytes = sum(weight.num_bytes for weight in op.weights) + activations
    return OpCost(_role(op.weights[0]), num_bytes, 2 * rows * elements, numbers.unit(op.weights[0].layout))


def _role(weight: Weight) -> str:
    """`layers.3.gate` is gate_up; a table that multiplies is the lm_head."""
    name = weight.name.rpartition(".")[2]
    return "lm_head" if name == "token_embedding" else ROLES.get(name, name)


def _attention(op: ir.Attention, step: StepShape, kv_spec: KVSpec, numbers: Numbers) -> OpCost:
    kv_bytes = step.keys_read(op.window) * kv_spec.bytes_per_token / kv_spec.num_layers
    num_bytes = kv_bytes + step.num_tokens * 2 * op.out.width * numbers.value_bytes
    operations = 4 * op.num_heads * op.head_dim * step.pairs(op.window)
    return OpCost("attention", num_bytes, operations, numbers.cache_units.get(kv_spec.dtype, "bf16"))


def _elementwise(op: ir.Op, step: StepShape, value_bytes: int) -> OpCost:
    match op:
        case ir.RmsNorm(x, _, _, _, _):
            return _rows("norms", step, x, 2 * value_bytes, NORM_OPERATIONS)
        case ir.RopeTable(_, _, out):
            return _rows("rope", step, out, 1 * value_bytes, ANGLE_OPERATIONS)
        case ir.Rope(x, _, _, _):
            return _rows("rope", step, x, 2 * value_bytes, ROPE_OPERATIONS)
        case ir.GatedActivation(_, _, out):
            return _rows("activation", step, out, 3 * value_bytes, ACTIVATION_OPERATIONS)
        case ir.Add(x, _, _):
            return _rows("residual", step, x, 3 * value_bytes, 1)
        case ir.Softcap(x, _, _):
            return _rows("softcap", step, x, 2 * value_bytes, ACTIVATION_OPERATIONS)
        case ir.Scale(x, _, _):
            return _rows("scale", step, x, 2 * value_bytes, 1)
        case ir.GatherRows(_, out):
            return _rows("gather", step, out, 2 * value_bytes, 0)
    raise AssertionError(f"no cost for {type(op).__name__}")


def _rows(role: str, step: StepShape, value: Value, num_bytes: int, operations: int) -> OpCost:
    """`num_bytes` and `operations` of an element."""
    elements = step.rows(value) * value.width
    return OpCost(role, elements * num_bytes, elements * operations)
