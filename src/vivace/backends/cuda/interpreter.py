"""Runs a recorded program operation by operation over one step. A value's buffer is let go after its last reader.

Under a CUDA graph it runs once, while the graph is captured: nothing here waits for the device or reads a tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vivace.backends.cuda import rows
from vivace.backends.cuda.attention import paged_attention
from vivace.backends.cuda.fusion import AddNorm, CodedGate, CodedNorm, Fused, RopeWrite, Stage
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.matrix import Matrix
from vivace.backends.cuda.precision import Precision
from vivace.backends.cuda.products import embedding_rows, product
from vivace.backends.cuda.step import DeviceStep
from vivace.backends.cuda.token_codes import ProductRows, TokenCodes, token_codes
from vivace.core.errors import EngineError
from vivace.ops import program as ir
from vivace.ops.program import Value, Weight

if TYPE_CHECKING:
    from vivace.backends.cuda.kernels.launchers import Launchers


class Interpreter:
    """The buffers of one step. `launchers`: of the kernels that run instead of torch's operations, if any do."""

    def __init__(
        self, cache: CudaKVCache, step: DeviceStep, precision: Precision, launchers: Launchers | None
    ) -> None:
        self._cache = cache
        self._step = step
        self._precision = precision
        self._launchers = launchers
        self._buffers: dict[int, Tensor] = {}
        self._coded: dict[int, TokenCodes] = {}  # what is there as codes alone

    def execute_stage(self, stage: Stage) -> None:
        """By one kernel where there is one; then let go of what nothing reads any more."""
        if stage.fused is None or not self._is_fused(stage.fused):
            for op, dying in zip(stage.ops, stage.dying, strict=True):
                self.execute(op, dying)
            return
        for buffers in stage.dying:
            for buffer in buffers:
                self._release(buffer)  # what lies between the operations never was

    def execute(self, op: ir.Op, dying: list[int]) -> None:
        """One operation; then let go of the buffers `dying`."""
        if isinstance(op, ir.KVWrite):
            self._write_kv(op)
        else:
            by_kernel = None if self._launchers is None else self._launchers.result(op, self.read)
            result = self._result(op) if by_kernel is None else by_kernel
            self._buffers[op.out.buffer] = result.to(self._type_of(op))
        for buffer in dying:
            self._release(buffer)

    def _release(self, buffer: int) -> None:
        self._buffers.pop(buffer, None)
        self._coded.pop(buffer, None)

    def _is_fused(self, fused: Fused) -> bool:
        """Whether these operations were computed together: by a kernel, or codes that torch found."""
        if isinstance(fused, CodedNorm):
            return self._is_coded(fused)
        if isinstance(fused, CodedGate):
            return self._is_gate_coded(fused)
        if self._launchers is None:
            return False
        match fused:
            case AddNorm(add, norm):
                both = self._launchers.add_norm(norm, self.read(add.x), self.read(add.y))
                if both is not None:
                    self._buffers[add.out.buffer], self._buffers[norm.out.buffer] = both
                return both is not None
            case RopeWrite(q):
                turned = self._launchers.rope_write(fused, self._step.slots_T, self.read)
                if turned is not None:
                    self._buffers[q.out.buffer] = turned
                return turned is not None

    def _is_coded(self, ops: CodedNorm) -> bool:
        """Whether the norm is there as codes; torch makes them where no kernel runs at all."""
        both = self._codes_by_torch(ops) if self._launchers is None else self._launchers.coded_norm(ops, self.read)
        if both is None:
            return False
        total, self._coded[ops.norm.out.buffer] = both
        if ops.add is not None and total is not None:
            self._buffers[ops.add.out.buffer] = total
        return True

    def _codes_by_torch(self, ops: CodedNorm) -> tuple[Tensor | None, TokenCodes]:
        norm, values = ops.norm, self._precision.values
        total = self.read(norm.x) if ops.add is None else self._result(ops.add).to(values)
        normed = rows.rms_norm(total.to(self._precision.wide), _vector(norm.weight), norm.eps, norm.groups)
        return total, token_codes(normed.to(values), ops.encoding)

    def _is_gate_coded(self, ops: CodedGate) -> bool:
        """Whether the activation is there as codes, as `_is_coded`."""
        if self._launchers is None:
            coded: TokenCodes | None = token_codes(self._result(ops.gate).to(self._precision.values), ops.encoding)
        else:
            coded = self._launchers.coded_gate(ops, self.read)
        if coded is not None:
            self._coded[ops.gate.out.buffer] = coded
        return coded is not None

    def read(self, value: Value) -> Tensor:
        return self._buffers[value.buffer][:, value.offset : value.offset + value.width]

    def _type_of(self, op: ir.Op) -> torch.dtype:
        """Angles stay wide: 16 bits of a position's cosine would turn far tokens by the wrong angle."""
        return self._precision.wide if isinstance(op, ir.RopeTable) else self._precision.values

    def _wide(self, value: Value) -> Tensor:
        return self.read(value).to(self._precision.wide)

    def _result(self, op: ir.Op) -> Tensor:
        step = self._step
        match op:
            case ir.Embedding(table, scale):
                return embedding_rows(_matrix(table), step.token_ids_T, self._precision) * scale
            case ir.States():
                if step.states_TD is None:
                    raise EngineError("the step brings no states")
                return step.states_TD
            case ir.RmsNorm(x, weight, eps, groups):
                return rows.rms_norm(self._wide(x), _vector(weight), eps, groups)
            case ir.Linear():
                return self._linear(op)
            case ir.RopeTable(inv_freq, scale):
                return rows.rope_table(step.positions_T, _vector(inv_freq), scale, self._precision.wide)
            case ir.Rope(x, table, head_dim):
                return rows.rope(self._wide(x), self.read(table), head_dim)
            case ir.Attention():
                return self._attention(op)
            case ir.GatedActivation(gate_up, activation):
                return rows.gated_activation(self._wide(gate_up), activation)
            case ir.Add(x, y):
                return self.read(x) + self.read(y)
            case ir.Softcap(x, cap):
                return rows.softcap(self._wide(x), cap)
            case ir.Scale(x, factor):
                return self._wide(x) * factor
            case ir.HeadResiduals(x, z):
                return rows.head_residuals(self._wide(x), self._wide(z))
            case ir.GatherRows(x):
                return self.read(x)[step.sampled_rows_S]
            case _:
                raise EngineError(f"no operation of the CUDA backend for {op}")

    def _attention(self, op: ir.Attention) -> Tensor:
        step, q_TD = self._step, self.read(op.q)
        if self._launchers is not None:
            by_kernel = self._launchers.attention(op, q_TD, step.rows, step.has_branches)
            if by_kernel is not None:
                return by_kernel
        return paged_attention(q_TD, op, self._cache, step, self._precision)

    def _linear(self, op: ir.Linear) -> Tensor:
        coded = self._coded.get(op.x.buffer)
        given: ProductRows = self.read(op.x) if coded is None else coded
        by_kernel = None if self._launchers is None else self._launchers.linear(op, given)
        if by_kernel is not None:
            return by_kernel
        parts = []
        for weight, bias in zip(op.weights, op.biases, strict=True):
            part_TN = product(given, _matrix(weight), self._precision)
            parts.append((part_TN if bias is None else part_TN + _vector(bias)).to(self._precision.values))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _write_kv(self, op: ir.KVWrite) -> None:
        slots_T, launchers = self._step.slots_T, self._launchers
        if launchers is not None and launchers.write(op.layer, slots_T, self.read(op.k), self.read(op.v)):
            return
        head_dim = self._cache.spec.head_dim
        k_TGK, v_TGK = (self.read(value).unflatten(1, (-1, head_dim)) for value in (op.k, op.v))
        self._cache.write(op.layer, slots_T, k_TGK, v_TGK)


def _matrix(weight: Weight) -> Matrix:
    data: Matrix = weight.data  # type: ignore[assignment]
    return data


def _vector(weight: Weight) -> Tensor:
    if not isinstance(weight.data, Tensor):
        raise EngineError(f"{weight.name} belongs to another backend")
    return weight.data
