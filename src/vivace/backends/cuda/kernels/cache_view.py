"""One layer of the backend's cache as kernels see it: views, nothing is copied."""

from __future__ import annotations

import torch

from vivace.backends.cuda.kernels.paged_plane import (
    PagedPlane,
    RecentBlocks,
    channel_plane,
    float_plane,
    fp8_plane,
    int4_plane,
    int8_plane,
)
from vivace.backends.cuda.kv_planes import ChannelPlane, FloatPlane, Fp8Plane, Int8Plane, TokenPlane
from vivace.backends.cuda.recent_keys import RecentKeys
from vivace.core.errors import EngineError


def layer_plane(plane: TokenPlane, layer: int) -> PagedPlane:
    """Keys, or values, of `layer`. Raises `EngineError` for a plane that no kernel reads."""
    if isinstance(plane, FloatPlane):
        return float_plane(plane.values[layer])
    codes, ranges = (tensor[layer] for tensor in plane.tensors)
    if isinstance(plane, Int8Plane):
        return int8_plane(codes, ranges)
    if isinstance(plane, Fp8Plane):
        return fp8_plane(codes, ranges, is_native=_converts_fp8(codes.device))
    if codes.ndim != 5:
        raise EngineError(f"no kernel reads a plane of {type(plane).__name__}")
    return int4_plane(codes, ranges)


def channel_keys(plane: ChannelPlane, recent: RecentKeys, layer: int) -> PagedPlane:
    """Keys of `layer` by channel. Valid for a step: the keys of blocks in progress move where they need more room."""
    codes, ranges = (tensor[layer] for tensor in plane.tensors)
    return channel_plane(codes, ranges, RecentBlocks(recent.keys[layer], recent.row_of_block))


def _converts_fp8(device: torch.device) -> bool:
    """In one instruction; Triton refuses the type on an older device, whose bits are then moved."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
