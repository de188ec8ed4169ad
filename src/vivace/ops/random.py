"""Random numbers from a counter: Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, 2011, "Parallel random numbers:
as easy as 1, 2, 3").

A number is a pure function of (seed, index, position): the same after a preemption, a restart, or in any batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

UInt32Array = NDArray[np.uint32]

FEW_ROWS = 24  # whose numbers are quicker in plain Python
NUM_ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))  # golden ratio, sqrt(3) - 1
WORD = 0xFFFFFFFF
_MULTIPLIER0, _MULTIPLIER1 = (int(one) for one in MULTIPLIERS)
_KEY_STEP0, _KEY_STEP1 = (int(one) for one in KEY_STEPS)


def philox_4x32(counter: UInt32Array, key: UInt32Array) -> UInt32Array:
    """Four random words [..., 4] of a counter [..., 4] and a key [..., 2], all uint32."""
    c0, c1, c2, c3 = (counter[..., word] for word in range(4))
    k0, k1 = key[..., 0], key[..., 1]
    for _ in range(NUM_ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        with np.errstate(over="ignore"):  # keys wrap around
            k0, k1 = k0 + KEY_STEPS[0], k1 + KEY_STEPS[1]
    return np.stack([c0, c1, c2, c3], axis=-1)


def _multiply(word: UInt32Array, multiplier: np.uint64) -> tuple[UInt32Array, UInt32Array]:
    """High and low words of the 64-bit product."""
    product = word.astype(np.uint64) * multiplier
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)


def uniforms(seed: ArrayLike, index: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
    """Uniform float32 numbers in [0, 1), 24 random bits each, of the broadcast shape of the arguments.

    seed: uint64, its low word is the key's first; counter = (position, index, 0, 0), each below 2^32.
    """
    seeds = np.asarray(seed, dtype=np.uint64)
    shape = np.broadcast_shapes(seeds.shape, np.shape(index), np.shape(position))
    counter = np.zeros((*shape, 4), dtype=np.uint32)
    counter[..., 0] = position
    counter[..., 1] = index
    key = np.empty((*shape, 2), dtype=np.uint32)
    key[..., 0] = seeds & np.uint64(0xFFFFFFFF)
    key[..., 1] = seeds >> np.uint64(32)
    word = philox_4x32(counter, key)[..., 0]
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def row_uniforms(
    seed_S: NDArray[np.uint64], index_S: NDArray[np.int32], position_S: NDArray[np.int32]
) -> NDArray[np.float32]:
    """`uniforms` of rows, in plain Python where they are few."""
    if len(seed_S) > FEW_ROWS:
        return uniforms(seed_S, index_S, position_S)
    rows = zip(seed_S.tolist(), index_S.tolist(), position_S.tolist(), strict=True)
    return np.array([uniform(*row) for row in rows], np.float32)


@lru_cache(maxsize=4096)
def uniform(seed: int, index: int, position: int) -> float:
    """One of the numbers of `uniforms`, in plain Python: 4 us where the arrays take 100 for any count up to some
    hundred. Kept for a while, for a draft model and its target draw the same ones."""
    c0, c1, c2, c3 = position, index, 0, 0
    k0, k1 = seed & WORD, seed >> 32
    for _ in range(NUM_ROUNDS):
        product0, product1 = c0 * _MULTIPLIER0, c2 * _MULTIPLIER1
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & WORD, (product0 >> 32) ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + _KEY_STEP0) & WORD, (k1 + _KEY_STEP1) & WORD
    return (c0 >> 8) * 2.0**-24


def derived_seed(seed: int, number: int) -> int:
    """A 64-bit seed for request `number` of an engine with `seed` (SplitMix64; Steele, Lea and Flood, 2014)."""
    mask = 2**64 - 1
    word = (seed + (number + 1) * 0x9E3779B97F4A7C15) & mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)
