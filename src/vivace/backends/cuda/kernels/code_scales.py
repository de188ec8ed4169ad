"""Scales, zero points and minima out of the header words of a step (`code_layout.HeaderKind`).

`words`: of a step, a tuple of eight of [outputs]; `GROUP`: of the step.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def step_headers(place, stride, HEADERS: tl.constexpr):
    """As many words as there are, then the first one again."""
    a = tl.load(place)
    b = tl.load(place + stride) if HEADERS > 1 else a
    c = tl.load(place + 2 * stride) if HEADERS > 2 else a
    d = tl.load(place + 3 * stride) if HEADERS > 3 else a
    e = tl.load(place + 4 * stride) if HEADERS > 4 else a
    f = tl.load(place + 5 * stride) if HEADERS > 5 else a
    g = tl.load(place + 6 * stride) if HEADERS > 6 else a
    h = tl.load(place + 7 * stride) if HEADERS > 7 else a
    return a, b, c, d, e, f, g, h


@triton.jit
def plane_scales(words, KIND: tl.constexpr, GROUP: tl.constexpr, ZERO: tl.constexpr, BITS: tl.constexpr):
    """(scale, shift), float32 [outputs] each: a weight is scale * (2^BITS + code) + shift."""
    scale = group_scale(words, KIND, GROUP)
    if KIND == "minimum":
        shift = low_half(words[GROUP] >> 16) - scale * (1 << BITS)
    elif KIND == "k":
        shift = -k_minimum(words, GROUP) - scale * (1 << BITS)
    else:
        shift = -scale * (group_zero(words, KIND, GROUP, ZERO) + (1 << BITS)).to(tl.float32)
    return scale, shift


@triton.jit
def group_scale(words, KIND: tl.constexpr, GROUP: tl.constexpr):
    """float32 [outputs]."""
    if KIND == "pair":
        scale = low_half(words[GROUP // 2] >> (16 * (GROUP % 2)))
    elif KIND == "q6_k":
        BYTE: tl.constexpr = GROUP % 4
        scale = low_half(words[4]) * (words[GROUP // 4] << (24 - 8 * BYTE) >> 24).to(tl.float32)
    elif KIND == "k":
        scale = low_half(words[0]) * k_level(words, 1, 0, GROUP).to(tl.float32)
    else:
        scale = low_half(words[GROUP])
    return scale


@triton.jit
def group_zero(words, KIND: tl.constexpr, GROUP: tl.constexpr, ZERO: tl.constexpr):
    """The code of 0, int32 [outputs]."""
    return words[GROUP] >> 16 & 255 if KIND == "zero" else tl.full(words[0].shape, ZERO, tl.int32)


@triton.jit
def k_minimum(words, GROUP: tl.constexpr):
    """What q4_k and q5_k take off, float32 [outputs]."""
    return low_half(words[0] >> 16) * k_level(words, 2, 4, GROUP).to(tl.float32)


@triton.jit
def k_level(words, WORD: tl.constexpr, NIBBLE: tl.constexpr, GROUP: tl.constexpr):
    """Six bits: `vivace.formats.k_quants` says where those of a scale (word 1) and a minimum (word 2) lie."""
    AT: tl.constexpr = 8 * (GROUP % 4)
    low = words[WORD] >> AT & 63
    return low if GROUP < 4 else words[3] >> (AT + NIBBLE) & 15 | words[WORD] >> (AT + 2) & 48


@triton.jit
def low_half(word):
    """The f16 number in the lower half of 32 bits, float32."""
    return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
