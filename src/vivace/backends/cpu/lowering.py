"""Turns a recorded program into a native one: operation by operation, over placed buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from vivace.backends.cpu import _native
from vivace.backends.cpu.placement import Placement, place_buffers, row_stride
from vivace.core.errors import EngineError
from vivace.ops import program as ir
from vivace.ops.backend import Float32Array, StepLimits
from vivace.ops.program import Program, Rows, Value, Weight

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")  # csrc/kernel_table.h counts them in this order


@dataclass(frozen=True, slots=True)
class Lowered:
    """A native program, and the array in which its states lie after a run, where it names some."""

    program: _native.Program
    states: Float32Array | None


def lower(program: Program, device: _native.Device, cache: _native.KVCache, limits: StepLimits) -> Lowered:
    """Raises `EngineError` if shapes do not fit each other or the cache."""
    placement = place_buffers(program, limits)
    try:
        native = _native.Program(device, cache, limits.max_tokens, limits.max_sampled, placement.num_floats)
        lowering = _Lowering(native, placement)
        for op in program.ops:
            lowering.append(op)
        assert program.output is not None  # checked by place_buffers
        native.set_output(lowering.place(program.output))
        states = None if program.states is None else native.array_at(lowering.place(program.states))
    except ValueError as error:
        raise EngineError(f"the program does not fit its backend: {error}") from error
    return Lowered(native, states)


class _Lowering:
    def __init__(self, native: _native.Program, placement: Placement) -> None:
        self.native = native
        self.placement = placement

    def place(self, value: Value) -> _native.Place:
        offset = self.placement.offsets[value.buffer] + value.offset
        return _native.Place(offset, row_stride(value), value.width, value.rows is Rows.SAMPLED)

    def append(self, op: ir.Op) -> None:
        native, place = self.native, self.place
        match op:
            case ir.Embedding(table, scale, out):
                native.embedding(_matrix(table), scale, place(out))
            case ir.States(out):
                native.states(place(out))
            case ir.RmsNorm(x, weight, eps, groups, out):
                native.rms_norm(place(x), _vector(weight), eps, groups, place(out))
            case ir.Linear(x, weights, biases, out):
                parts = [
                    (_matrix(weight), None if bias is None else _vector(bias))
                    for weight, bias in zip(weights, biases, strict=True)
                ]
                native.linear(place(x), parts, place(out))
            case ir.RopeTable(inv_freq, scale, out):
                native.rope_table(_vector(inv_freq), scale, place(out))
            case ir.Rope(x, table, head_dim, out):
                native.rope(place(x), place(table), head_dim, place(out))
            case ir.KVWrite(k, v, layer):
                native.kv_write(place(k), place(v), layer)
            case ir.Attention():
                self._attention(op)
            case ir.GatedActivation(gate_up, activation, out):
                native.gated_activation(place(gate_up), ACTIVATIONS.index(activation), place(out))
            case ir.Add(x, y, out):
                native.add(place(x), place(y), place(out))
            case ir.Softcap(x, cap, out):
                native.softcap(place(x), cap, place(out))
            case ir.Scale(x, factor, out):
                native.scale(place(x), factor, place(out))
            case ir.HeadResiduals(x, z, out):
                native.head_residuals(place(x), place(z), place(out))
            case ir.GatherRows(x, out):
                native.gather_rows(place(x), place(out))

    def _attention(self, op: ir.Attention) -> None:
        window, softcap = op.window or 0, op.softcap or 0.0
        self.native.attention(self.place(op.q), op.layer, op.num_heads, op.scale, window, softcap, self.place(op.out))


def _matrix(weight: Weight) -> _native.Matrix:
    return cast(_native.Matrix, weight.data)


def _vector(weight: Weight) -> _native.Vector:
    return cast(_native.Vector, weight.data)
