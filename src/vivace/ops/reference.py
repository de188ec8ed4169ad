"""What each operation means: slow, obvious, and written once against the Python array API standard.

Every fast version is tested against these functions. They take plain arrays of one namespace (NumPy >= 2, torch)
and compute in the dtype of the activations. Block tables, lengths and positions are int32 arrays of the same
namespace. Nothing here depends on the rest of the batch: where an array library would pick another summation
order for another number of rows, the product is written row by row.

Shape letters: T tokens of the step, S sampled rows, B sequences, D any width, N outputs of a product, V vocabulary,
H query heads, G key/value heads, K head dimension, C context positions, X blocks of a sequence, F feed-forward
width, P rotated pairs of a head.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vivace.ops.program import Activation

Array = Any  # an array of any library that follows the standard


def array_namespace(array: Array) -> Any:
    """The module whose functions take `array`. torch tensors lack `__array_namespace__`, but the functions used
    here have the standard's names and arguments in `torch` itself."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return sys.modules[type(array).__module__.partition(".")[0]]


def embedding(table_VD: Array, token_ids_T: Array, scale: float) -> Array:
    """[T, D]: the tokens' rows, times `scale`."""
    return table_VD[token_ids_T, :] * scale


def rms_norm(x_TD: Array, weight: Array, eps: float, groups: int) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight in each of `groups` equal column groups (Zhang and Sennrich, 2019)."""
    xp = array_namespace(x_TD)
    x = xp.reshape(x_TD, (x_TD.shape[0], groups, x_TD.shape[1] // groups))
    mean_square = xp.mean(x * x, axis=-1, keepdims=True)
    return xp.reshape(x / xp.sqrt(mean_square + eps) * weight, x_TD.shape)


def linear(x_TD: Array, weights: Sequence[Array], biases: Sequence[Array | None]) -> Array:
    """[T, sum of N]: x @ weight_ND.T + bias_N of each part, side by side."""
    xp = array_namespace(x_TD)
    parts = []
    for weight_ND, bias_N in zip(weights, biases, strict=True):
        rows_T1N = xp.matmul(x_TD[:, None, :], weight_ND.T)  # T products of one row each: see the module's text
        part_TN = rows_T1N[:, 0, :]
        parts.append(part_TN if bias_N is None else part_TN + bias_N)
    return xp.concat(parts, axis=-1)


def rope_table(positions_T: Array, inv_freq_P: Array, scale: float) -> Array:
    """[T, 2P]: cosines, then sines, of position * inv_freq, times `scale`. The angle is rounded to float32."""
    xp = array_namespace(inv_freq_P)
    positions = xp.asarray(positions_T, dtype=xp.float32)
    angles_TP = positions[:, None] * xp.asarray(inv_freq_P, dtype=xp.float32)
    angles_TP = xp.asarray(angles_TP, dtype=inv_freq_P.dtype)
    return xp.concat([xp.cos(angles_TP), xp.sin(angles_TP)], axis=-1) * scale


def rope(x_TD: Array, table_T2P: Array, head_dim: int) -> Array:
    """Rotates columns i and i + P of each head by the token's i-th angle, i < P; columns from 2P on pass through
    (Su et al., 2021)."""
    xp = array_namespace(x_TD)
    num_pairs = table_T2P.shape[1] // 2
    x_THK = xp.reshape(x_TD, (x_TD.shape[0], x_TD.shape[1] // head_dim, head_dim))
    cos, sin = table_T2P[:, None, :num_pairs], table_T2P[:, None, num_pairs:]
    first, second = x_THK[:, :, :num_pairs], x_THK[:, :, num_pairs : 2 * num_pairs]
    rotated = [first * cos - second * sin, second * cos + first * sin, x_THK[:, :, 2 * num_pairs :]]
    return xp.reshape(xp.concat(rotated, axis=-1), x_TD.shape)


def kv_write(k_TD: Array, v_TD: Array, keys: Array, values: Array, slots_T: Array) -> None:
    """Writes each token's keys and values to its slot of one layer's cache, in place.

    keys, values: [num_blocks, G, block_size, K]; slots_T: block * block_size + slot within the block.
    """
    _, num_kv_heads, block_size, head_dim = keys.shape
    xp = array_namespace(k_TD)
    for token in range(k_TD.shape[0]):
        block, slot = divmod(int(slots_T[token]), block_size)
        keys[block, :, slot, :] = xp.reshape(k_TD[token, :], (num_kv_heads, head_dim))
        values[block, :, slot, :] = xp.reshape(v_TD[token, :], (num_kv_heads, head_dim))


def paged_attention(
    q_TD: Array,
    keys: Array,
    values: Array,
    query_starts_B1: Array,
    context_lens_B: Array,
    block_tables_BX: Array,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    recent_keys: Array | None = None,
    paths: TreePaths | None = None,
) -> Array:
    """[T, H*K]: attention of each token over positions max(0, p - window + 1) .. p of its own sequence.

    keys, values: one layer's cache [num_blocks, G, block_size, K]. `recent_keys`, of the same shape: where a query
    reads the keys of its own block. `paths`: of rows with parents. See `vivace.ops.program.Attention` and
    `vivace.ops.backend.StepInputs` for the other arguments.
    """
    xp = array_namespace(q_TD)
    block_size = keys.shape[2]
    rows = [q_TD[:0, :]]
    for sequence in range(context_lens_B.shape[0]):
        start, stop = int(query_starts_B1[sequence]), int(query_starts_B1[sequence + 1])
        context_len = int(context_lens_B[sequence])
        keys_GCK = _context(keys, block_tables_BX[sequence, :], context_len)
        values_GCK = _context(values, block_tables_BX[sequence, :], context_len)
        recent = keys if recent_keys is None else recent_keys
        recent_GCK = _context(recent, block_tables_BX[sequence, :], context_len)
        for row in range(start, stop):
            position = context_len - stop + row
            first = 0 if window is None else max(0, position - window + 1)
            own = max(first, position - position % block_size)
            row_keys, row_recent, row_values = keys_GCK, recent_GCK, values_GCK
            if paths is not None and (slots := paths.slots(row)):
                row_recent = _replaced_end(recent_GCK, recent, slots, position)
                row_values = _replaced_end(values_GCK, values, slots, position)
                row_keys = paths.coded(_replaced_end(keys_GCK, keys, slots, position), row_recent, position, slots)
            seen_GCK = xp.concat([row_keys[:, first:own, :], row_recent[:, own : position + 1, :]], axis=1)
            out_D = _attend(q_TD[row, :], seen_GCK, row_values[:, first : position + 1, :], scale, softcap)
            rows.append(out_D[None, :])
    return xp.concat(rows, axis=0)


class TreePaths:
    """The paths of a step's rows with parents. `round_block(keys_GSK)` gives what the keys of a full block
    [G, block_size, K] read back as for queries behind it, where that is not what was written."""

    def __init__(
        self,
        parents_T: Array,
        slots_T: Array,
        block_size: int,
        round_block: Callable[[Array], Array] | None = None,
    ) -> None:
        self._parents_T = parents_T
        self._slots_T = slots_T
        self._block_size = block_size
        self._round_block = round_block

    def slots(self, row: int) -> list[int]:
        """Slots of the row's ancestors with parents, the first one first, and its own; empty for a row without."""
        path = []
        while int(self._parents_T[row]) >= 0:
            path.append(int(self._slots_T[row]))
            row = int(self._parents_T[row])
        return path[::-1]

    def coded(self, keys_GCK: Array, recent_GCK: Array, position: int, slots: list[int]) -> Array:
        """`keys_GCK` with the blocks coded that the path fills before its last position's own."""
        if self._round_block is None:
            return keys_GCK
        size = self._block_size
        xp = array_namespace(keys_GCK)
        first = (position - len(slots) + 1) // size * size
        parts = [keys_GCK[:, :first, :]]
        for start in range(first, position // size * size, size):
            parts.append(self._round_block(recent_GCK[:, start : start + size, :]))
        parts.append(keys_GCK[:, position // size * size :, :])
        return xp.concat(parts, axis=1)


def _replaced_end(context_GCK: Array, cache: Array, slots: list[int], position: int) -> Array:
    """A context up to `position` whose last rows are those of `slots`."""
    xp = array_namespace(cache)
    block_size = cache.shape[2]
    rows = [cache[slot // block_size, :, slot % block_size, :][:, None, :] for slot in slots]
    return xp.concat([context_GCK[:, : position - len(slots) + 1, :], *rows], axis=1)


def _context(cache: Array, block_table_X: Array, context_len: int) -> Array:
    """[G, C, K]: one sequence's cached rows in the order of positions."""
    xp = array_namespace(cache)
    _, num_kv_heads, block_size, head_dim = cache.shape
    num_blocks = -(-context_len // block_size)
    blocks_GXSK = xp.moveaxis(cache[block_table_X[:num_blocks], :, :, :], 1, 0)
    return xp.reshape(blocks_GXSK, (num_kv_heads, num_blocks * block_size, head_dim))[:, :context_len, :]


def _attend(q_D: Array, keys_GCK: Array, values_GCK: Array, scale: float, cap: float | None) -> Array:
    """[H*K]: one token's attention, softmax(softcap(q.k * scale)) . v. Query head h reads k/v head
    h // (H / G)."""
    xp = array_namespace(q_D)
    num_kv_heads, _, head_dim = keys_GCK.shape
    q_HK = xp.reshape(q_D, (-1, head_dim))
    heads_per_kv_head = q_HK.shape[0] // num_kv_heads
    heads = []
    for head in range(q_HK.shape[0]):
        kv_head = head // heads_per_kv_head
        scores_C = xp.matmul(keys_GCK[kv_head, :, :], q_HK[head, :]) * scale
        if cap is not None:
            scores_C = softcap(scores_C, cap)
        weights_C = xp.exp(scores_C - xp.max(scores_C))
        heads.append(xp.matmul(weights_C / xp.sum(weights_C), values_GCK[kv_head, :, :]))
    return xp.concat(heads, axis=0)


def gated_activation(gate_up_T2F: Array, activation: Activation) -> Array:
    """[T, F]: activation(gate) * up (Shazeer, 2020)."""
    width = gate_up_T2F.shape[1] // 2
    return ACTIVATIONS[activation](gate_up_T2F[:, :width]) * gate_up_T2F[:, width:]


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    xp = array_namespace(x)
    return x * 0.5 * (1 + xp.tanh(x * 0.5))  # sigmoid without overflow for large negative x


def gelu(x: Array) -> Array:
    """x * Phi(x), exactly (Hendrycks and Gimpel, 2016). The standard has no erf: one by one."""
    xp = array_namespace(x)
    cdf = [0.5 * (1 + math.erf(value / math.sqrt(2))) for value in xp.reshape(x, (-1,)).tolist()]
    return x * xp.reshape(xp.asarray(cdf, dtype=x.dtype, device=x.device), x.shape)


def gelu_tanh(x: Array) -> Array:
    """GELU's tanh approximation: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    xp = array_namespace(x)
    return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh}


def add(x: Array, y: Array) -> Array:
    return x + y


def softcap(x: Array, cap: float) -> Array:
    """cap * tanh(x / cap): at most `cap` in size."""
    return cap * array_namespace(x).tanh(x / cap)


def scale(x: Array, factor: float) -> Array:
    return x * factor


def head_residuals(x_TD: Array, z_TD: Array) -> Array:
    """[T * K, D]: x + silu(z) of each of the K heads whose z lie side by side."""
    xp = array_namespace(x_TD)
    num_heads = z_TD.shape[1] // x_TD.shape[1]
    z_TKD = xp.reshape(z_TD, (x_TD.shape[0], num_heads, x_TD.shape[1]))
    return xp.reshape(x_TD[:, None, :] + silu(z_TKD), (x_TD.shape[0] * num_heads, x_TD.shape[1]))


def gather_rows(x_TD: Array, sampled_rows_S: Array) -> Array:
    """[S, D]: the rows whose logits are wanted."""
    return x_TD[sampled_rows_S, :]
