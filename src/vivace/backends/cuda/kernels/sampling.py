"""Tokens drawn without a sort: thresholds by bisection, masses as integers.

A row's weights exp((logit - largest) / temperature) are float32, and their sums 64-bit integers of 2^-40: exact, so
no order of summing shows, and fast where float64 is slow (an RTX 4090 does 1/64 of its float32 rate, and a row of
128,000 exponentials in float64 would take it some 8 us, 2 ms a step of 256 rows). A token lighter than 2^-41 of the
heaviest is never drawn. Top-k and top-p are searched for on the logits' bits, read as integers of the same order: at
most 16 passes over the row each, four ways at a time.

Shape letters: S rows, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # columns at a time: 8 a thread; with 16, 194 registers would leave room for one row on a multiprocessor
NUM_WARPS = 8


def draw(
    logits_SV: Tensor, temperature_S: Tensor, top_k_S: Tensor, top_p_S: Tensor, min_p_S: Tensor, uniform_S: Tensor
) -> Tensor:
    """Token ids [S], int32, as `vivace.ops.reference_sampling` draws them; -1 for a row without any finite logit.

    logits: float32, unit stride along a row; top_k: int32; the others float32. Where a uniform number lies within
    some 1e-7 of a border of the cumulated distribution, the draw may fall to the neighbour.
    """
    num_rows, vocabulary = logits_SV.shape
    tokens_S = torch.empty(num_rows, dtype=torch.int32, device=logits_SV.device)
    tile = min(TILE, triton.next_power_of_2(vocabulary))
    draw_row[(num_rows,)](
        logits_SV, temperature_S, top_k_S, top_p_S, min_p_S, uniform_S, tokens_S, vocabulary, logits_SV.stride(0),
        TILE=tile, num_warps=NUM_WARPS,
    )  # fmt: skip
    return tokens_S


@triton.jit
def load_tile(logits, start, vocabulary, TILE: tl.constexpr):
    """Columns and their logits; minus infinity for what is never drawn."""
    columns = start + tl.arange(0, TILE)
    values = tl.load(logits + columns, mask=columns < vocabulary, other=float("-inf"))
    values = tl.where(tl.abs(values) < float("inf"), values, float("-inf"))
    return columns, tl.where(values == 0.0, 0.0, values)  # one zero


@triton.jit
def order_of(values):
    """Integers in the order of the numbers."""
    bits = values.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def mass_of(values, largest, temperature, min_p):
    """Weights in units of 2^-40 of the heaviest; 0 below min_p."""
    weights = tl.exp((values - largest) / temperature)
    return tl.where(weights >= min_p, weights * 1099511627776.0, 0.0).to(tl.int64)


@triton.jit
def sums_from(logits, first, second, third, largest, temperature, min_p, vocabulary,
              COUNTS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Of the tokens from each of three places in the order on: how many there are, or their mass."""
    sum1 = tl.zeros([TILE], tl.int64)
    sum2 = tl.zeros([TILE], tl.int64)
    sum3 = tl.zeros([TILE], tl.int64)
    for start in range(0, vocabulary, TILE):
        columns, values = load_tile(logits, start, vocabulary, TILE)
        order = order_of(values)
        if COUNTS:  # noqa: SIM108 -- decided while it compiles
            amounts = (columns < vocabulary).to(tl.int64)
        else:
            amounts = mass_of(values, largest, temperature, min_p)
        sum1 += tl.where(order >= first, amounts, 0)
        sum2 += tl.where(order >= second, amounts, 0)
        sum3 += tl.where(order >= third, amounts, 0)
    return tl.sum(sum1, 0), tl.sum(sum2, 0), tl.sum(sum3, 0)


@triton.jit
def last_with(logits, low, high, wanted, largest, temperature, min_p, vocabulary,
              COUNTS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """The last place in the order, from low to high, from which on there are `wanted`; from low on there are."""
    while low < high:
        span = high - low - 1
        first = low + 1 + span // 4
        second = low + 1 + span // 2
        third = low + 1 + span // 4 * 3
        sum1, sum2, sum3 = sums_from(
            logits, first, second, third, largest, temperature, min_p, vocabulary, COUNTS, TILE
        )
        if sum3 >= wanted:
            low = third
        else:
            high = third - 1
            if sum2 >= wanted:
                low = second
            else:
                high = tl.minimum(high, second - 1)
                if sum1 >= wanted:
                    low = first
                else:
                    high = tl.minimum(high, first - 1)
    return low


@triton.jit
def draw_row(logits, temperatures, top_ks, top_ps, min_ps, uniforms, tokens, vocabulary, stride, TILE: tl.constexpr):
    """One row. Kept are the tokens behind the place `cut` in the order, and the first `num_ties` of those at it."""
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    temperature = tl.load(temperatures + row)
    best = tl.full([TILE], float("-inf"), tl.float32)
    place = tl.full([TILE], 2147483647, tl.int32)
    for start in range(0, vocabulary, TILE):
        columns, values = load_tile(logits, start, vocabulary, TILE)
        place = tl.where(values > best, columns, place)
        best = tl.maximum(best, values)
    largest = tl.max(best, 0)
    token = tl.min(tl.where(best == largest, place, 2147483647), 0)
    if largest == float("-inf"):
        token = -1
    elif temperature > 0:
        top_k = tl.load(top_ks + row)
        top_p = tl.load(top_ps + row)
        min_p = tl.load(min_ps + row)
        high = order_of(largest).to(tl.int64)
        cut = tl.full([], -2139095041, tl.int64)  # minus infinity
        num_ties = tl.full([], 9223372036854775807, tl.int64)
        if (top_k > 0) & (top_k < vocabulary):
            wanted = top_k.to(tl.int64)
            cut = last_with(logits, cut, high, wanted, largest, temperature, min_p, vocabulary, True, TILE)
            behind, _, _ = sums_from(
                logits, cut + 1, cut + 1, cut + 1, largest, temperature, min_p, vocabulary, True, TILE
            )
            num_ties = wanted - behind
        total = kept_mass(logits, cut, num_ties, largest, temperature, min_p, vocabulary, TILE)
        if top_p < 1:
            wanted = tl.ceil(top_p.to(tl.float64) * total.to(tl.float64)).to(tl.int64)
            wanted = tl.maximum(wanted, 1)
            new = last_with(logits, cut, high, wanted, largest, temperature, min_p, vocabulary, False, TILE)
            behind, at, _ = masses_at(logits, new, largest, temperature, min_p, vocabulary, TILE)
            ties = (wanted - behind + at - 1) // tl.maximum(at, 1)
            num_ties = tl.where(new == cut, tl.minimum(ties, num_ties), ties)
            cut = new
            total = kept_mass(logits, cut, num_ties, largest, temperature, min_p, vocabulary, TILE)
        uniform = tl.load(uniforms + row)
        wanted = tl.floor(uniform.to(tl.float64) * total.to(tl.float64)).to(tl.int64) + 1
        token = first_with(logits, cut, num_ties, wanted, largest, temperature, min_p, vocabulary, TILE)
    tl.store(tokens + row, token)


@triton.jit
def masses_at(logits, cut, largest, temperature, min_p, vocabulary, TILE: tl.constexpr):
    """The mass of all tokens behind a place in the order, of one token at it, and how many are there."""
    behind = tl.zeros([TILE], tl.int64)
    at = tl.zeros([TILE], tl.int64)
    count = tl.zeros([TILE], tl.int64)
    for start in range(0, vocabulary, TILE):
        _, values = load_tile(logits, start, vocabulary, TILE)
        order = order_of(values)
        masses = mass_of(values, largest, temperature, min_p)
        behind += tl.where(order > cut, masses, 0)
        at = tl.maximum(at, tl.where(order == cut, masses, 0))
        count += (order == cut).to(tl.int64)
    return tl.sum(behind, 0), tl.max(at, 0), tl.sum(count, 0)


@triton.jit
def kept_mass(logits, cut, num_ties, largest, temperature, min_p, vocabulary, TILE: tl.constexpr):
    behind, at, count = masses_at(logits, cut, largest, temperature, min_p, vocabulary, TILE)
    return behind + at * tl.minimum(count, num_ties)


@triton.jit
def first_with(logits, cut, num_ties, wanted, largest, temperature, min_p, vocabulary, TILE: tl.constexpr):
    """The first kept token, by ids, up to which there is so much mass."""
    token = tl.full([], -1, tl.int32)
    done = tl.full([], 0, tl.int64)
    num_seen = tl.full([], 0, tl.int64)
    start = 0
    while (start < vocabulary) & (token < 0):
        columns, values = load_tile(logits, start, vocabulary, TILE)
        order = order_of(values)
        masses = mass_of(values, largest, temperature, min_p)
        is_tie = (order == cut).to(tl.int64)
        num_here = tl.sum(is_tie, 0)
        ranks = is_tie
        if num_here > 0:
            ranks = num_seen + tl.cumsum(is_tie, 0)
        kept = tl.where((order > cut) | ((is_tie > 0) & (ranks <= num_ties)), masses, 0)
        mass = tl.sum(kept, 0)
        if done + mass >= wanted:
            upto = done + tl.cumsum(kept, 0)
            token = tl.min(tl.where((upto >= wanted) & (kept > 0), columns, 2147483647), 0)
        done += mass
        num_seen += num_here
        start += TILE
    return token
