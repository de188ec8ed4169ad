"""Rotary frequencies: which angle a position turns each pair of columns by, under every scaling in use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frequencies = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All frequencies divided by `factor` (position interpolation; Chen et al., 2023)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp between the two wave lengths
    original / low_freq_factor and original / high_freq_factor."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): a ramp over pairs from kept to divided, and cosines scaled by attention_factor."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """LongRoPE (Ding et al., 2024): a divisor for each pair, one set for short contexts and one for long.

    The set is chosen once for an engine, by max_model_len, and never by the length of a sequence: keys in the
    cache keep the angle they were written with, and a result must not depend on the rest of the batch.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float


@dataclass(frozen=True, slots=True)
class DivisorScaling:
    """A divisor for each pair, as GGUF files carry Llama 3.1's scaling (`rope_freqs.weight`)."""

    divisors: tuple[float, ...]


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | DivisorScaling


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of one kind of layer: the first `rotary_dim` columns of a head turn."""

    theta: float
    rotary_dim: int
    scaling: RopeScaling | None = None

    @property
    def scale(self) -> float:
        """Factor of cosines and sines."""
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling | LongRopeScaling) else 1.0

    def is_long(self, max_model_len: int) -> bool:
        """Whether an engine for contexts of `max_model_len` tokens uses LongRoPE's long factors."""
        scaling = self.scaling
        return isinstance(scaling, LongRopeScaling) and max_model_len > scaling.original_max_position_embeddings


def inverse_frequencies(rope: RopeSpec, *, long: bool = False) -> NDArray[np.float32]:
    """Radians a position, float32 [rotary_dim / 2], computed in float64 and rounded once."""
    plain = rope.theta ** -(np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim)
    match rope.scaling:
        case None:
            scaled = plain
        case LinearScaling(factor):
            scaled = plain / factor
        case Llama3Scaling():
            scaled = _llama3(plain, rope.scaling)
        case YarnScaling():
            scaled = _yarn(plain, rope, rope.scaling)
        case LongRopeScaling(short_factors, long_factors):
            scaled = plain / np.asarray(long_factors if long else short_factors)
        case DivisorScaling(divisors):
            scaled = plain / np.asarray(divisors)
    return scaled.astype(np.float32)


def _llama3(plain: Frequencies, scaling: Llama3Scaling) -> Frequencies:
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)  # in the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    result: Frequencies = plain * (kept + (1 - kept) / scaling.factor)
    return result


def _yarn(plain: Frequencies, rope: RopeSpec, scaling: YarnScaling) -> Frequencies:
    def pair_with(turns: float) -> float:
        """The pair that turns so many times in the original context."""
        wavelength = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return rope.rotary_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.rotary_dim - 1)
    width = max(last - first, 0.001)  # as the authors avoid the division by zero
    divided = np.clip((np.arange(len(plain)) - first) / width, 0, 1)
    result: Frequencies = plain * (divided / scaling.factor + (1 - divided))
    return result


def default_yarn_attention_factor(factor: float) -> float:
    """1 + 0.1 ln(factor), as the paper recommends."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def default_longrope_attention_factor(factor: float, original_max_position_embeddings: int) -> float:
    """sqrt(1 + ln(factor) / ln(original context)), as the paper recommends."""
    if factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original_max_position_embeddings))
