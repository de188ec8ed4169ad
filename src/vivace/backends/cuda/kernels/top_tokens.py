"""Log probabilities without a sort: one pass for the row's sum and the token's rank, one for each likely token.

Shape letters: S rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.sampling import NUM_WARPS, TILE, load_tile


def top_tokens(logits_SV: Tensor, tokens_S: Tensor, k: int) -> Tensor:
    """[S, 3 + 2 K], int32: token, its log probability's bits, rank, ids, bits of log probabilities, all of the raw
    log-softmax as `vivace.ops.reference_sampling.top_logprobs` has it. logits: float32, unit stride along a row."""
    num_rows, vocabulary = logits_SV.shape
    table = torch.empty((num_rows, 3 + 2 * k), dtype=torch.int32, device=logits_SV.device)
    tile = min(TILE, triton.next_power_of_2(vocabulary))
    rank_row[(num_rows,)](
        logits_SV, tokens_S.int(), table, vocabulary, logits_SV.stride(0), k, TILE=tile, num_warps=NUM_WARPS
    )
    return table


@triton.jit
def rank_row(logits, tokens, table, vocabulary, stride, k, TILE: tl.constexpr):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    table += row * (3 + 2 * k)
    token = tl.load(tokens + row)
    best = tl.full([TILE], float("-inf"), tl.float32)
    for start in range(0, vocabulary, TILE):
        _, values = load_tile(logits, start, vocabulary, TILE)
        best = tl.maximum(best, values)
    largest = tl.max(best, 0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    chosen = tl.load(logits + tl.maximum(token, 0))
    chosen = tl.where((token >= 0) & (tl.abs(chosen) < float("inf")), chosen, float("-inf"))
    sums = tl.zeros([TILE], tl.float32)
    before = tl.zeros([TILE], tl.int32)
    for start in range(0, vocabulary, TILE):
        columns, values = load_tile(logits, start, vocabulary, TILE)
        sums += tl.exp(values - shift)
        is_before = (values > chosen) | ((values == chosen) & (columns < token))
        before += is_before.to(tl.int32)
    total = tl.sum(sums, 0)
    log_sum = tl.log(tl.where(total > 0, total, 1.0))  # 0: no logit is finite
    tl.store(table, token)
    tl.store(table + 1, bits_of(chosen, shift, log_sum))
    tl.store(table + 2, tl.where(token >= 0, tl.sum(before, 0) + 1, 0))
    last = tl.full([], float("inf"), tl.float32)
    last_column = tl.full([], -1, tl.int32)
    for rank in range(k):
        last, last_column = next_token(logits, last, last_column, vocabulary, TILE)
        tl.store(table + 3 + rank, last_column)
        tl.store(table + 3 + k + rank, bits_of(last, shift, log_sum))


@triton.jit
def bits_of(value, shift, log_sum):
    """Of a log probability."""
    logprob = tl.where(value == float("-inf"), value, value - shift - log_sum)
    return logprob.to(tl.int32, bitcast=True)


@triton.jit
def next_token(logits, last, last_column, vocabulary, TILE: tl.constexpr):
    """The likeliest token behind one, the lowest id among equals."""
    best = tl.full([TILE], float("-inf"), tl.float32)
    place = tl.full([TILE], 2147483647, tl.int32)
    for start in range(0, vocabulary, TILE):
        columns, values = load_tile(logits, start, vocabulary, TILE)
        is_behind = (values < last) | ((values == last) & (columns > last_column))
        is_better = is_behind & (columns < vocabulary) & ((values > best) | (place == 2147483647))
        place = tl.where(is_better, columns, place)
        best = tl.where(is_better, values, best)
    value = tl.max(best, 0)
    return value, tl.min(tl.where(best == value, place, 2147483647), 0)
