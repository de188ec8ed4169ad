"""Scales as checkpoints store them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError


def half_scales(name: str, scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded to float16, contiguous. Raises UnsupportedError if one is not finite then."""
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(scales, "<f2")
    if not np.isfinite(halves).all():
        raise UnsupportedError(f"{name}: a scale is not finite in half precision; keep this matrix in 16 bit")
    return halves
