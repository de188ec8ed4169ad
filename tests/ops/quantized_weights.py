"""Random quantised matrices, and what the products with them are, written from their definitions with torch.

Shape letters: N outputs, K inputs, M rows of activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vivace.backends.cpu.backend import LAYOUTS
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.stored_matrix import stored_matrix
from vivace.formats.tensor import StoredTensor

Float32Array = NDArray[np.float32]

INT4 = ("int4_g32", "int4_g64", "int4_g128")
INT8_ROWS = ("int8_channel", "int8_outlier")


@dataclass(frozen=True)
class Weights:
    """A matrix, its bytes, and its values [N, K] with scales as the encoding holds them."""

    matrix: QuantizedMatrix
    stored: StoredTensor
    values: Float32Array


def random_weights(encoding: str, seed: int, N: int, K: int, *, act_order: bool = False) -> Weights:
    rng = np.random.default_rng(seed)
    is_int4 = encoding in INT4
    group_size = int(encoding.removeprefix("int4_g")) if is_int4 else K
    num_groups = -(-K // group_size)
    scales = (rng.standard_normal((N, num_groups)) * 10.0 ** rng.uniform(-4, 0, (N, num_groups))).astype(np.float16)
    zeros = rng.integers(0, 17, scales.shape) if is_int4 else np.full(scales.shape, 128)
    codes = rng.integers(0, 16 if is_int4 else 256, (N, K)).astype(np.uint8)
    groups = np.arange(K) // group_size
    if act_order:
        groups = rng.permutation(groups)
    matrix = QuantizedMatrix(
        4 if is_int4 else 8,
        group_size,
        codes,
        scales.astype(np.float32),
        zeros.astype(np.uint8),
        groups.astype(np.int32) if act_order else None,
    )
    activations: Any = {"int8_channel": "token", "int8_outlier": "outlier"}.get(encoding, "group")
    values = (codes.astype(np.float32) - zeros[:, groups].astype(np.float32)) * scales.astype(np.float32)[:, groups]
    stored = stored_matrix("w", matrix, activations)
    assert stored.encoding == encoding
    assert (stored.input_order is not None) == act_order
    return Weights(matrix, stored, values)


def pack(device: Any, stored: StoredTensor) -> Any:
    return device.pack(LAYOUTS.index(stored.encoding), stored.data, stored.shape[1], stored.input_order)


def product(device: Any, packed: Any, x_MK: Float32Array, N: int) -> Float32Array:
    out_MN = np.full((x_MK.shape[0], N), np.nan, np.float32)
    device.linear(packed, np.ascontiguousarray(x_MK), out_MN)
    return out_MN


def token_codes(x_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 codes [M, K] and float32 scales [M, 1]: max |x| / 127 a row, rounded to even."""
    scale = x_MK.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(x_MK * (1 / scale)).nan_to_num(0).long(), scale


def w8a8(weights: Weights, x_MK: Float32Array) -> Float32Array:
    """Integers summed exactly; the sum, the token's scale and the row's, each product rounded to float32."""
    codes, scale = token_codes(torch.from_numpy(x_MK))
    levels = torch.from_numpy(weights.matrix.codes_NK.astype(np.int64)) - 128
    row_scales = torch.from_numpy(weights.matrix.scales_NG[:, 0])
    return ((codes @ levels.T).float() * scale * row_scales).numpy()


def llm_int8(weights: Weights, x_MK: Float32Array) -> NDArray[np.float64]:
    """As Dettmers et al. (2022) compute it, with the outliers of each token by itself; in float64."""
    x = torch.from_numpy(x_MK)
    is_outlier = x.abs() >= 6.0
    codes, scale = token_codes(torch.where(is_outlier, 0, x))
    values = torch.from_numpy(weights.values).double()
    inliers = (codes.double() * scale.double()) @ values.T
    return (inliers + torch.where(is_outlier, x, 0).double() @ values.T).numpy()


def with_outliers(x_MK: Float32Array, seed: int) -> Float32Array:
    """Some inputs of some rows at 6 to 60, the limit itself included."""
    rng = np.random.default_rng(seed)
    out = np.clip(x_MK, -5.9, 5.9)
    for m in range(0, len(out), 2):
        for k in rng.integers(0, out.shape[1], rng.integers(1, 6)):
            out[m, k] = rng.choice([-1, 1]) * rng.uniform(6, 60)
    out[0, 0] = 6.0
    return out.astype(np.float32)
