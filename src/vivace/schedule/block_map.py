"""A picture of the KV pool that stays small however many blocks there are."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.schedule.block_manager import BlockManager

MAX_CELLS = 1024  # 4 KB; 100,000 blocks take 3 ms to look at
FULL = 255


@dataclass(frozen=True, slots=True)
class BlockMap:
    """Neighbouring blocks in cells of `blocks_per_cell`; the last cell may have fewer.

    `shares` has four bytes a cell: which part of its blocks (255: all of them) is free, cached, used by one sequence,
    and shared by several.
    """

    num_blocks: int
    blocks_per_cell: int
    shares: bytes


def block_map(manager: BlockManager, max_cells: int = MAX_CELLS) -> BlockMap:
    """The pool as it is now, in at most `max_cells` cells."""
    num_blocks = manager.num_blocks
    per_cell = -(-num_blocks // max_cells)
    shares = bytearray()
    for first in range(0, num_blocks, per_cell):
        end = min(first + per_cell, num_blocks)
        counts = manager.census(first, end)
        shares += bytes(count * FULL // (end - first) for count in counts)
    return BlockMap(num_blocks, per_cell, bytes(shares))
