"""Operations of a program by kernels, where the registry takes them; None, for torch, where it does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.backends.cuda.attention_choice import PromptChoice, choose_prompts
from vivace.backends.cuda.fusion import CodedGate, CodedNorm, RopeWrite
from vivace.backends.cuda.kernels.attention import paged_attention
from vivace.backends.cuda.kernels.attention_shape import AttentionShape, shape_of
from vivace.backends.cuda.kernels.attention_tiles import whole_tile
from vivace.backends.cuda.kernels.cache_view import channel_keys, layer_plane
from vivace.backends.cuda.kernels.case import AttentionCase, CacheWriteCase, RowCase
from vivace.backends.cuda.kernels.coded_gate import coded_gate
from vivace.backends.cuda.kernels.coded_norm import coded_norm
from vivace.backends.cuda.kernels.gated_activation import gated_activation
from vivace.backends.cuda.kernels.kv_write import kv_write, rope_write
from vivace.backends.cuda.kernels.matrix_product import product_case, write_product
from vivace.backends.cuda.kernels.paged_plane import PagedPlane
from vivace.backends.cuda.kernels.ragged_rows import (
    MOST_GRAPH_PARTS,
    SPLIT_ROWS,
    RaggedRows,
    TilePlan,
    graph_parts,
    tile_plan,
)
from vivace.backends.cuda.kernels.registry import KernelRegistry
from vivace.backends.cuda.kernels.rms_norm import add_rms_norm, rms_norm
from vivace.backends.cuda.kernels.rope import rope
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.kv_planes import FloatPlane
from vivace.backends.cuda.matrix import Matrix
from vivace.backends.cuda.prompt_attention import CachedLayer
from vivace.backends.cuda.token_codes import ProductRows, TokenCodes
from vivace.core.errors import EngineError
from vivace.ops import program as ir
from vivace.ops.backend import StepInputs
from vivace.ops.program import Program, Value, Weight

Read = Callable[[Value], Tensor]


class Launchers:
    """Of one program over one cache. Asks the registry for each operation, which counts the answers."""

    def __init__(self, program: Program, cache: CudaKVCache, registry: KernelRegistry) -> None:
        self._spec = cache.spec
        self._cache = cache
        self._registry = registry
        self._planes: dict[int, tuple[PagedPlane, PagedPlane]] = {}
        heads = {op.num_heads // op.num_kv_heads for op in program.ops if isinstance(op, ir.Attention)}
        self._heads_per_group = heads.pop() if len(heads) == 1 else None  # tiles are cut for one number of them
        shapes = {shape_of(op) for op in program.ops if isinstance(op, ir.Attention)}
        self._window = min((shape.window for shape in shapes if shape.window is not None), default=None)
        self._prompts = self._choose_prompts(sorted(shapes, key=str))

    def tile_plan(
        self, inputs: StepInputs, values: torch.dtype, has_branches: bool, max_context: int | None = None
    ) -> TilePlan | None:
        """How the attention kernel cuts this step's rows; None where torch attends, or where a step is too large for
        a CUDA graph, whose contexts `max_context` bounds."""
        if self._heads_per_group is None or self._registry.reason(self._case(values, has_branches)) is not None:
            return None
        whole = whole_tile(self._spec.head_dim)
        if max_context is not None:
            num_parts = graph_parts(inputs)
            if num_parts > MOST_GRAPH_PARTS:
                return None
            return tile_plan(inputs, self._heads_per_group, whole, num_parts)
        elsewhere_B = None if has_branches else self._elsewhere(inputs, values)
        return tile_plan(inputs, self._heads_per_group, whole, elsewhere_B=elsewhere_B)

    def result(self, op: ir.Op, read: Read) -> Tensor | None:
        """Of an operation on rows."""
        match op:
            case ir.RmsNorm(x, weight, eps, groups):
                if self._takes_rows("rms_norm", read(x), x.width // groups):
                    return rms_norm(read(x), _vector(weight), eps, groups)
            case ir.Rope(x, table, head_dim):
                if self._takes_rows("rope", read(x), head_dim):
                    return rope(read(x), read(table), head_dim)
            case ir.GatedActivation(gate_up, activation):
                if self._takes_rows("gated_activation", read(gate_up), gate_up.width // 2):
                    return gated_activation(read(gate_up), activation)
        return None

    def attention(self, op: ir.Attention, q_TD: Tensor, rows: RaggedRows | None, has_branches: bool) -> Tensor | None:
        """[T, H*K] in q's type."""
        if not self._registry.takes(self._case(q_TD.dtype, has_branches)) or rows is None:
            return None
        keys, values = self._layer(op.layer)
        out_TD = paged_attention(q_TD, keys, values, rows, shape_of(op))
        if rows.prompts is not None and self._prompts.provider is not None:
            self._prompts.provider.attend(q_TD, keys.codes, values.codes, rows.prompts, shape_of(op), out_TD)
        return out_TD

    def linear(self, op: ir.Linear, rows: ProductRows) -> Tensor | None:
        """[T, sum of N] in the rows' type, where kernels take every one of the matrices."""
        matrices = [_matrix(weight) for weight in op.weights]
        is_taken = [self._registry.takes(product_case(rows, matrix)) for matrix in matrices]  # each is counted
        if not all(is_taken):
            return None
        counts = [matrix.num_rows for matrix in matrices]
        num_beside = sum(counts) if len({weight.layout for weight in op.weights}) == 1 else None
        out_TN = torch.empty((len(rows), sum(counts)), dtype=rows.dtype, device=rows.device)
        for matrix, bias, part_TN in zip(matrices, op.biases, out_TN.split(counts, dim=1), strict=True):
            write_product(rows, matrix, part_TN, None if bias is None else _vector(bias), num_beside)
        return out_TN

    def write(self, layer: int, slots_T: Tensor, k_TD: Tensor, v_TD: Tensor) -> bool:
        """Whether this step's keys and values were written."""
        is_taken = self._registry.takes(CacheWriteCase(self._spec.dtype, self._spec.head_dim))
        if is_taken:
            kv_write(k_TD, v_TD, slots_T, *self._layer(layer))
        return is_taken

    def add_norm(self, norm: ir.RmsNorm, x_TD: Tensor, y_TD: Tensor) -> tuple[Tensor, Tensor] | None:
        """The sum, and its norm."""
        if not self._takes_rows("add_rms_norm", x_TD, x_TD.shape[1]):
            return None
        return add_rms_norm(x_TD, y_TD, _vector(norm.weight), norm.eps)

    def coded_norm(self, ops: CodedNorm, read: Read) -> tuple[Tensor | None, TokenCodes] | None:
        """The sum, where there is one, and the norm's codes; None where nothing was done. Whoever multiplies the norm
        itself by a kernel multiplies its codes by one."""
        x_TD = read(ops.norm.x if ops.add is None else ops.add.x)
        if not self._takes_rows("coded_rms_norm", x_TD, x_TD.shape[1]):
            return None
        y_TD = None if ops.add is None else read(ops.add.y)
        return coded_norm(x_TD, y_TD, _vector(ops.norm.weight), ops.norm.eps, ops.encoding)

    def coded_gate(self, ops: CodedGate, read: Read) -> TokenCodes | None:
        """The activation's codes; None where nothing was done."""
        gate_up_T2F = read(ops.gate.gate_up)
        if not self._takes_rows("coded_gated_activation", gate_up_T2F, gate_up_T2F.shape[1] // 2):
            return None
        return coded_gate(gate_up_T2F, ops.gate.activation, ops.encoding)

    def rope_write(self, ops: RopeWrite, slots_T: Tensor, read: Read) -> Tensor | None:
        """The turned queries, this step's keys and values written; None where nothing was done."""
        if self._registry.reason(CacheWriteCase(self._spec.dtype, self._spec.head_dim)) is not None:
            return None
        q_TD = read(ops.q.x)
        if not self._takes_rows("rope_kv_write", q_TD, ops.q.head_dim):
            return None
        k_TD, v_TD, table_T2P = read(ops.k.x), read(ops.write.v), read(ops.q.table)
        return rope_write(q_TD, k_TD, v_TD, table_T2P, slots_T, *self._layer(ops.write.layer))

    def _choose_prompts(self, shapes: list[AttentionShape]) -> PromptChoice:
        """By the registry, which keeps the choice for other programs over such a cache."""
        plane = None if self._cache.has_recent_keys else self._cache.token_planes[0]
        if isinstance(plane, FloatPlane):
            layers = tuple(CachedLayer(shape, self._spec.block_size, plane.values.dtype) for shape in shapes)
            choice = self._registry.prompts.get(layers) or choose_prompts(
                self._registry.attention, layers, self._cache.device
            )
            self._registry.prompts[layers] = choice
        else:
            choice = PromptChoice(None, f"no library reads a cache of {self._spec.dtype} with scales by token")
        name = "torch" if self._registry.attention == "torch" else choice.name
        self._registry.remarks["attention of prompts"] = name, choice.reason
        return choice

    def _elsewhere(self, inputs: StepInputs, values: torch.dtype) -> NDArray[np.bool_] | None:
        """Which sequences the library takes; None where it takes none."""
        provider = self._prompts.provider
        if provider is None or self._layer(0)[0].codes.dtype != values:
            return None
        counts_B, contexts_B = np.diff(inputs.query_starts_B1), inputs.context_lens_B
        is_taken_B = counts_B > max(SPLIT_ROWS, provider.least_rows - 1)
        if not provider.reads_context:
            most = contexts_B.max(initial=0) if self._window is None else self._window
            is_taken_B &= (counts_B == contexts_B) & (counts_B <= most)
        return is_taken_B if is_taken_B.any() else None

    def _case(self, values: torch.dtype, has_branches: bool) -> AttentionCase:
        return AttentionCase(self._spec.dtype, _name(values), self._spec.head_dim, has_branches)

    def _takes_rows(self, name: str, x_TD: Tensor, width: int) -> bool:
        return self._registry.takes(RowCase(name, _name(x_TD.dtype), width))

    def _layer(self, layer: int) -> tuple[PagedPlane, PagedPlane]:
        """Keys and values: views, made once where nothing moves."""
        if self._cache.has_recent_keys:
            coded, values = self._cache.channel_planes
            return channel_keys(coded, self._cache.recent, layer), layer_plane(values, layer)
        if layer not in self._planes:
            keys, values = self._cache.token_planes
            self._planes[layer] = layer_plane(keys, layer), layer_plane(values, layer)
        return self._planes[layer]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _matrix(weight: Weight) -> Matrix:
    data: Matrix = weight.data  # type: ignore[assignment]
    return data


def _vector(weight: Weight) -> Tensor:
    if not isinstance(weight.data, Tensor):
        raise EngineError(f"{weight.name} belongs to another backend")
    return weight.data
