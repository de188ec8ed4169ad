"""The picture of the KV pool against a count of every block."""

from __future__ import annotations

import random

import pytest
from sequences import make_fork, make_sequence

from vivace.schedule import BlockManager
from vivace.schedule.block_map import FULL, block_map

SEED = 20261122


def filled(manager: BlockManager, chance: random.Random) -> None:
    """Sequences that run, some with forks, and some that are gone; the finished ones stay cached."""
    for number in range(12):
        sequence = make_sequence([chance.randrange(50) for _ in range(chance.randint(1, 40))], salt=bytes([number]))
        match = manager.match(sequence)
        if not manager.can_admit(sequence, match):
            continue
        manager.admit(sequence, match)
        sequence.num_computed = len(sequence.tokens)
        manager.commit(sequence)
        if number % 3 == 0:
            manager.fork(sequence, make_fork(sequence, 1))
        elif number % 3 == 1:
            manager.release(sequence)


def states(manager: BlockManager, first: int, end: int) -> tuple[int, int, int, int]:
    """From the manager's lists, block by block."""
    found = [0, 0, 0, 0]
    for block in range(first, end):
        users = manager.references[block]
        found[min(users, 2) + 1 if users else int(manager._pool.is_cached(block))] += 1
    return found[0], found[1], found[2], found[3]


@pytest.mark.parametrize(("num_blocks", "max_cells"), [(1, 8), (64, 64), (64, 1024), (67, 16), (64, 1), (1000, 7)])
def test_every_block_is_in_one_cell(num_blocks: int, max_cells: int) -> None:
    print("seed", SEED)
    manager = BlockManager(num_blocks, 4)
    filled(manager, random.Random(SEED))
    picture = block_map(manager, max_cells)
    assert picture.num_blocks == num_blocks
    assert len(picture.shares) % 4 == 0
    num_cells = len(picture.shares) // 4
    assert num_cells <= max_cells
    assert (num_cells - 1) * picture.blocks_per_cell < num_blocks <= num_cells * picture.blocks_per_cell
    for cell in range(num_cells):
        first = cell * picture.blocks_per_cell
        end = min(first + picture.blocks_per_cell, num_blocks)
        expected = [count * FULL // (end - first) for count in states(manager, first, end)]
        assert [*picture.shares[4 * cell : 4 * cell + 4]] == expected


def test_the_whole_pool_counts_as_the_manager_does() -> None:
    manager = BlockManager(200, 4)
    filled(manager, random.Random(SEED))
    free, cached, single, shared = manager.census(0, 200)
    assert (free, cached, single + shared) == (manager.num_free, manager.num_cached, manager.num_used)
    assert shared > 0
    assert cached > 0
