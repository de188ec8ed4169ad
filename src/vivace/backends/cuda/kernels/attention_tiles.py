"""How large the attention kernel's tiles are, so that they fit the registers and the shared memory of a core.

Found with ptxas for compute capability 8.0, 8.9 and 9.0 (tests/backends/cuda/aot_kernels.py): nothing is spilled, and
no more is shared than the 99 KiB that a block has on 8.9, where nothing else is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vivace.backends.cuda.kernels.paged_plane import PlaneKind


@dataclass(frozen=True, slots=True)
class TileSize:
    """M rows (token and head) by N positions."""

    M: int
    N: int
    num_warps: int
    num_stages: int


def whole_tile(head_dim: int) -> int:
    """Rows times heads of a tile over a whole context: what keeps its float32 sums within the registers."""
    return 128 if head_dim <= 128 else 64 if head_dim <= 256 else 16


def padded_dim(head_dim: int) -> int:
    return max(32, 1 << (head_dim - 1).bit_length())


def tile_size(lines: int, head_dim: int, kind: PlaneKind, dtype: torch.dtype) -> TileSize:
    """`lines`: rows times heads of a tile. N does not depend on them: a guess sums its context in the order in which
    plain decoding would. That leaves 48, 16 and 28 bytes spilled: keys by channel on 8.0 (N of 16 would spill none,
    and give Hopper's tensor cores half the width) and 64 lines of 128 dimensions on 8.9 (N of 32: none)."""
    M, dim = max(16, 1 << (lines - 1).bit_length()), padded_dim(head_dim)
    is_wide = dtype == torch.float32
    is_coded = kind != "float"
    N = (16 if dim > 128 else 32) if is_wide else 16 if dim > 256 else 32 if dim > 128 or is_coded else 64
    num_warps = 8 if M >= 128 or M * dim >= 64 * 256 or dim > 256 else 4
    if is_wide:  # two stages of 128 dimensions take 113 KiB of shared memory
        return TileSize(M, N, num_warps, 1 if dim > 64 else 2)
    # A third stage fetches block numbers ahead of the keys that they lead to: worth it where a tile is small.
    return TileSize(M, N, num_warps, 3 if M == 16 else 2)
