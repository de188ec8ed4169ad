"""From how many rows on torch's attention beats our kernel for a prompt, by a model of both.

Ours reads the cache in place. torch's function wants keys and values side by side, so they are copied first, and its
output is copied into place: for n rows of H query and G KV heads of K dimensions, in 16 bits, a layer takes

    ours:  2 H K n^2 / (OUR_SHARE peak)
    torch: 2 H K n^2 / (TORCH_SHARE peak) + n (8 G K + 4 H K) / (COPY_SHARE bandwidth) + EXTRA_LAUNCHES LAUNCH_S

The copies grow with n and the saving with n^2: they meet at some thousand rows. In a default chunk of 2,048, at 32
and 8 heads of 128 dimensions on an H100, 16 us of 70 are to be saved, and the copies take 27. A chunk behind cached
context stays with ours as well: a token of context costs 3.1 ns to lay beside the others and saves 16 at 2,048 rows
(4 at 512), so that 32,000 of them could gain a sixth of the chunk's attention, for 134 MB of copies a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vivace.backends.cuda.kernels.attention_shape import AttentionShape

# Assumed, none of them measured; `benches/gpu.py` measures both kernels. Ours: docs/gpu.md. torch's: what cuDNN and
# FlashAttention publish for long prompts of heads of 128 dimensions.
OUR_SHARE, TORCH_SHARE = 0.50, 0.65
COPY_SHARE = 0.8
EXTRA_LAUNCHES = 4  # keys, values, the output, and torch's own preparation
LAUNCH_S = 2e-6


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """Dense bfloat16 operations and bytes a second."""

    title: str
    peak: float
    bandwidth: float


# By data sheet, of the fastest device of the capability: a slower memory moves the border up.
RATES = {
    (8, 0): DeviceRates("an A100", 312e12, 2.04e12),
    (8, 9): DeviceRates("an RTX 4090", 165e12, 1.01e12),
    (9, 0): DeviceRates("an H100", 989e12, 3.35e12),
}
LAST_CAPABILITY = max(RATES)


def rates_of(capability: tuple[int, int]) -> DeviceRates:
    """Of the newest that is known and not newer."""
    return RATES[max((one for one in RATES if one <= capability), default=min(RATES))]


def rows_worth_copying(shape: AttentionShape, rates: DeviceRates) -> int:
    """The smallest prompt, without cached context, that torch computes faster."""
    saved = 2 * shape.num_heads * shape.head_dim * (1 / OUR_SHARE - 1 / TORCH_SHARE) / rates.peak  # times n^2
    token_bytes = shape.head_dim * (8 * shape.num_kv_heads + 4 * shape.num_heads)
    copied = token_bytes / (COPY_SHARE * rates.bandwidth)  # times n
    fixed = EXTRA_LAUNCHES * LAUNCH_S
    return math.ceil((copied + math.sqrt(copied**2 + 4 * saved * fixed)) / (2 * saved))
