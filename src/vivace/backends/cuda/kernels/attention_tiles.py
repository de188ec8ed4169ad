"""How large the attention kernel's tiles are, so that they fit the registers and the shared memory of a core.

Found with ptxas for capability 8.0, 8.9 and 9.0 (tests/backends/cuda/aot_kernels.py): nothing is spilled but
68 bytes by prompts over keys by channel on 8.0, and no more is shared than the 99 KiB that a block has on 8.9, where
nothing else is said. tests/backends/cuda/sass_report.py counts what an iteration costs on an H100.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vivace.backends.cuda.kernels.paged_plane import PlaneKind

LEAST_SHARED_BYTES = 99 << 10
# 128 lines of 128 dimensions and three tiles of 128 keys and values: on Hopper. A tile's fixed cost, a third of its
# instructions, is then that of twice as many keys.
WIDE_SHARED_BYTES = 225 << 10


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


def tile_size(
    lines: int, head_dim: int, kind: PlaneKind, dtype: torch.dtype, shared_bytes: int = LEAST_SHARED_BYTES
) -> TileSize:
    """`lines`: rows times heads of a tile. N does not depend on them where a context is split: a guess sums it in the
    order in which plain decoding would. `shared_bytes`: what a block may have of the device."""
    M, dim = max(16, 1 << (lines - 1).bit_length()), padded_dim(head_dim)
    is_wide = dtype == torch.float32
    is_coded = kind != "float"
    N = (16 if dim > 128 else 32) if is_wide else 16 if dim > 256 else 32 if dim > 128 or is_coded else 64
    num_warps = 8 if M >= 128 or M * dim >= 64 * 256 or dim > 256 else 4
    if is_wide:  # two stages of 128 dimensions take 113 KiB of shared memory
        return TileSize(M, N, num_warps, 1 if dim > 64 else 2)
    # A third stage fetches block numbers ahead of the keys that they lead to: worth it where a tile is small. Five
    # fetch keys a tile ahead too: with fewer a program computes nothing while its next tile comes.
    is_roomy = shared_bytes >= WIDE_SHARED_BYTES and dim <= 128
    if M == 16:
        return TileSize(M, N, num_warps, 5 if is_roomy else 3)
    if kind != "float" or dim > 128 or M < 128:
        return TileSize(M, N, num_warps, 2)
    return TileSize(M, 128 if is_roomy and dim == 128 else N, num_warps, 5)
