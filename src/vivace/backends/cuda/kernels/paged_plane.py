"""One layer's keys, or values, in pages: what a kernel has to know to read and write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vivace.ops.reference_kv import INT4_GROUP

PlaneKind = Literal["float", "int8", "int4", "fp8", "fp8_native", "channel"]


@dataclass(frozen=True, slots=True)
class RecentBlocks:
    """Keys of blocks in progress: `keys` [rows, block_size, G, K] float16; block b in row `row_of_block[b]`."""

    keys: Tensor
    row_of_block: Tensor


@dataclass(frozen=True, slots=True)
class PagedPlane:
    """`codes` [num_blocks, block_size, G, width], any strides but 1 along `width`; `ranges` the scale and the minimum
    of each vector or group of 32, bfloat16; None for floats.

    float  codes of any float type, width K
    int8   codes uint8, width K; ranges [num_blocks, block_size, G, 1, 2]
    fp8    codes uint8, the bits of float8 e4m3, width K; ranges [num_blocks, block_size, G, 1], scales alone.
           fp8_native: where the device converts them in one instruction
    int4   codes uint8, width K / 2: byte 16 g + j holds dimensions 32 g + j and 32 g + j + 16; ranges
           [num_blocks, block_size, G, K / 32, 2]

    channel  keys alone: codes uint8 [num_blocks, G, K, block_size / 2], places i and i + block_size / 2 in a byte;
           ranges [num_blocks, G, K, 2]; and `recent`. Strides are of blocks, heads and dimensions

    A level c stands for scale * c + minimum, an e4m3 number c for scale * c (`vivace.ops.reference_kv`).
    """

    codes: Tensor
    ranges: Tensor | None
    kind: PlaneKind
    recent: RecentBlocks | None = None

    @property
    def block_size(self) -> int:
        return int(self.codes.shape[1])

    @property
    def num_kv_heads(self) -> int:
        return int(self.codes.shape[2])

    @property
    def head_dim(self) -> int:
        return int(self.codes.shape[3]) * (2 if self.kind == "int4" else 1)

    @property
    def ranges_or_codes(self) -> Tensor:
        """A kernel takes a pointer where it reads none."""
        return self.codes if self.ranges is None else self.ranges

    @property
    def code_strides(self) -> tuple[int, int, int]:
        """Of blocks, places and heads."""
        block, place, head, _ = self.codes.stride()
        return block, place, head

    @property
    def recent_strides(self) -> tuple[int, int, int]:
        if self.recent is None:
            return 0, 0, 0
        row, place, head, _ = self.recent.keys.stride()
        return row, place, head

    @property
    def range_strides(self) -> tuple[int, int, int]:
        if self.ranges is None:
            return 0, 0, 0
        block, place, head, *_ = self.ranges.stride()
        return block, place, head


def float_plane(values: Tensor) -> PagedPlane:
    """Of [num_blocks, block_size, G, K]."""
    return PagedPlane(values, None, "float")


def int8_plane(codes: Tensor, ranges: Tensor) -> PagedPlane:
    """Of codes [num_blocks, block_size, G, K] and ranges [num_blocks, block_size, G, 2]."""
    return PagedPlane(codes, ranges.unsqueeze(-2), "int8")


def fp8_plane(codes: Tensor, scales: Tensor, *, is_native: bool) -> PagedPlane:
    """Of codes [num_blocks, block_size, G, K] and scales [num_blocks, block_size, G, 1]. `is_native`: on compute
    capability 8.9 or newer."""
    return PagedPlane(codes, scales, "fp8_native" if is_native else "fp8")


def int4_plane(codes: Tensor, ranges: Tensor) -> PagedPlane:
    """Of codes [num_blocks, block_size, G, groups, 16] and ranges [num_blocks, block_size, G, groups, 2]."""
    assert codes.shape[-1] == INT4_GROUP // 2
    return PagedPlane(codes.flatten(-2), ranges, "int4")


def channel_plane(codes: Tensor, ranges: Tensor, recent: RecentBlocks) -> PagedPlane:
    """Of codes [num_blocks, G, K, block_size / 2] and ranges [num_blocks, G, K, 2]."""
    return PagedPlane(codes, ranges, "channel", recent)
