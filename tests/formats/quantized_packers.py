"""Packers of quantised checkpoints with obvious loops, written from the formats' public descriptions alone.

Shape letters: N outputs, K inputs, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Quantized:
    """What a packer takes: w[n, k] = scales[n, g] * (codes[n, k] - zeros[n, g]) with g = groups[k]."""

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    groups: np.ndarray

    def weights(self) -> np.ndarray:
        N, K = self.codes.shape
        result = np.empty((N, K), np.float32)
        for k in range(K):
            g = self.groups[k]
            levels = self.codes[:, k].astype(np.int64) - self.zeros[:, g].astype(np.int64)
            result[:, k] = levels.astype(np.float32) * self.scales[:, g].astype(np.float32)
        return result


def round_to_nearest(
    weights: np.ndarray, bits: int, group_size: int, *, symmetric: bool, groups: np.ndarray | None = None
) -> Quantized:
    """float16 scales; zero points from 1, because 0 is ambiguous in GPTQ's first version."""
    N, K = weights.shape
    groups = np.arange(K) // group_size if groups is None else groups
    G, top, middle = int(groups.max()) + 1, 2**bits - 1, 2 ** (bits - 1)
    scales, zeros = np.zeros((N, G), np.float16), np.full((N, G), middle)
    codes = np.zeros((N, K), np.int64)
    for g in range(G):
        part = weights[:, groups == g].astype(np.float64)
        if symmetric:
            scale = (np.abs(part).max(axis=1) / (middle - 1)).astype(np.float16)
        else:
            low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
            scale = ((high - low) / (top - 1)).astype(np.float16)
            zeros[:, g] = np.clip(np.round(-low / scale.astype(np.float64)), 1, top)
        scales[:, g] = scale
        levels = np.round(part / scale.astype(np.float64)[:, None]) + zeros[:, g : g + 1]
        codes[:, groups == g] = np.clip(levels, 0, top)
    return Quantized(bits, codes.astype(np.uint8), scales, zeros.astype(np.uint8), groups)


def random_quantized(
    rng: np.random.Generator, N: int, K: int, bits: int, group_size: int, *, symmetric: bool, order: bool = False
) -> Quantized:
    groups = rng.permutation(np.arange(K) // group_size) if order else np.arange(K) // group_size
    G = -(-K // group_size)
    zeros = np.full((N, G), 2 ** (bits - 1)) if symmetric else rng.integers(1, 2**bits, (N, G))
    scales = (0.01 + rng.random((N, G))).astype(np.float16)
    codes = rng.integers(0, 2**bits, (N, K)).astype(np.uint8)
    return Quantized(bits, codes, scales, zeros.astype(np.uint8), groups)


def pack_first_dimension(codes: np.ndarray, bits: int) -> np.ndarray:
    """[R, C] to int32 [ceil(R * bits / 32), C]: element r of a column in bits r * bits and up."""
    R, C = codes.shape
    words = [[0] * C for _ in range(-(-R * bits // 32))]
    for r in range(R):
        for c in range(C):
            words[r * bits // 32][c] |= int(codes[r, c]) << (r * bits % 32)
    return np.array(words, np.uint64).astype(np.uint32).view(np.int32)


def pack_second_dimension(codes: np.ndarray, bits: int) -> np.ndarray:
    return np.ascontiguousarray(pack_first_dimension(codes.T, bits).T)


def gptq_tensors(q: Quantized, *, version: int = 1, g_idx: bool = True) -> dict[str, np.ndarray]:
    zeros = q.zeros.T.astype(np.int64) - 1 if version == 1 else q.zeros.T
    tensors = {
        "qweight": pack_first_dimension(q.codes.T, q.bits),
        "qzeros": pack_second_dimension(zeros, q.bits),
        "scales": np.ascontiguousarray(q.scales.T),
    }
    return tensors | ({"g_idx": q.groups.astype(np.int32)} if g_idx else {})


def awq_tensors(q: Quantized) -> dict[str, np.ndarray]:
    def pack(codes: np.ndarray) -> np.ndarray:
        R, C = codes.shape
        words = np.zeros((R, C // 8), np.uint32)
        for r in range(R):
            for c in range(C // 8):
                for i in range(8):
                    words[r, c] |= np.uint32(codes[r, 8 * c + AWQ_ORDER[i]]) << np.uint32(4 * i)
        return words.view(np.int32)

    return {
        "qweight": pack(q.codes.T),
        "qzeros": pack(q.zeros.T),
        "scales": np.ascontiguousarray(q.scales.T),
    }


def packed_quantized_tensors(q: Quantized, *, symmetric: bool, g_idx: bool = False) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {
        "weight_packed": pack_second_dimension(q.codes, q.bits),
        "weight_scale": q.scales,
        "weight_shape": np.array(q.codes.shape, np.int64),
    }
    if not symmetric:
        tensors["weight_zero_point"] = pack_first_dimension(q.zeros, q.bits)
    return tensors | ({"weight_g_idx": q.groups.astype(np.int32)} if g_idx else {})


def int_quantized_tensors(q: Quantized) -> dict[str, np.ndarray]:
    return {
        "weight": (q.codes.astype(np.int64) - 128).astype(np.int8),
        "weight_scale": q.scales.astype(np.float32),
    }


def llm_int8_tensors(weights: np.ndarray) -> dict[str, np.ndarray]:
    largest = np.abs(weights).max(axis=1).astype(np.float32)
    return {
        "weight": np.round(weights / largest[:, None] * 127).astype(np.int8),
        "SCB": largest,
        "weight_format": np.array(0, np.uint8),
    }


GPTQ_CONFIG: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False}
AWQ_CONFIG: dict[str, Any] = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 32,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}
LLM_INT8_CONFIG: dict[str, Any] = {
    "quant_method": "bitsandbytes",
    "_load_in_8bit": True,
    "_load_in_4bit": False,
    "load_in_8bit": True,
    "load_in_4bit": False,
    "llm_int8_threshold": 6.0,
    "llm_int8_skip_modules": None,
    "llm_int8_has_fp16_weight": False,
    "bnb_4bit_quant_type": "fp4",
}
TOKEN_ACTIVATIONS: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "group_size": None,
    "strategy": "token",
    "dynamic": True,
}


def compressed_config(
    bits: int, group_size: int | None, *, symmetric: bool, tokens: bool = False, **weights: Any
) -> dict[str, Any]:
    """As llm-compressor writes it."""
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if tokens else "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": symmetric,
                    "group_size": group_size,
                    "strategy": "channel" if group_size is None else "group",
                    "block_structure": None,
                    "dynamic": False,
                    "actorder": None,
                    "observer": "minmax",
                    "observer_kwargs": {},
                }
                | weights,
                "input_activations": TOKEN_ACTIVATIONS if tokens else None,
                "output_activations": None,
            }
        },
    }
