from __future__ import annotations

import pytest

from vivace.core.errors import ConfigError, EngineError
from vivace.schedule.block_pool import BlockPool


class Pool(BlockPool):
    """A pool that remembers what it evicted."""

    def __init__(self, num_blocks: int) -> None:
        self.evicted: list[int] = []
        super().__init__(num_blocks, self.evicted.append)

    def counts(self) -> tuple[int, int, int]:
        self.check_integrity()
        return self.num_free, self.num_cached, self.num_used


def test_counts_follow_a_block_through_its_states() -> None:
    pool = Pool(3)
    assert pool.counts() == (3, 0, 0)
    (block,) = pool.allocate(1)
    assert pool.counts() == (2, 0, 1)
    pool.mark_cached(block)
    pool.release(block)
    assert pool.counts() == (2, 1, 0)
    pool.share(block)
    pool.share(block)
    assert pool.counts() == (2, 0, 1)
    assert pool.references[block] == 2
    pool.release(block)
    assert pool.counts() == (2, 0, 1)
    pool.release(block)
    assert pool.counts() == (2, 1, 0)
    assert pool.num_available == 3
    assert pool.evicted == []


def test_free_blocks_go_before_cached_ones_and_these_least_recently_released_first() -> None:
    pool = Pool(5)
    blocks = pool.allocate(5)
    for block in blocks[:4]:
        pool.mark_cached(block)
    for block in (blocks[2], blocks[4], blocks[0], blocks[3], blocks[1]):
        pool.release(block)
    pool.share(blocks[0])
    pool.release(blocks[0])  # used again: now the most recent one
    assert pool.allocate(1) == [blocks[4]]
    assert pool.evicted == []
    assert pool.allocate(4) == [blocks[2], blocks[3], blocks[1], blocks[0]]
    assert pool.evicted == [blocks[2], blocks[3], blocks[1], blocks[0]]
    assert pool.counts() == (0, 0, 5)


def test_an_evicted_block_is_no_longer_cached() -> None:
    pool = Pool(1)
    (block,) = pool.allocate(1)
    pool.mark_cached(block)
    pool.release(block)
    assert pool.is_cached(block)
    pool.allocate(1)
    assert not pool.is_cached(block)
    pool.release(block)
    assert pool.counts() == (1, 0, 0)


def test_misuse_is_an_engine_error() -> None:
    pool = Pool(2)
    with pytest.raises(EngineError, match="3 KV blocks asked for, 2 available"):
        pool.allocate(3)
    with pytest.raises(EngineError, match="released more often"):
        pool.release(0)
    with pytest.raises(EngineError, match="no content to share"):
        pool.share(0)
    with pytest.raises(EngineError, match="not in use"):
        pool.mark_cached(0)
    assert pool.counts() == (2, 0, 0)
    with pytest.raises(ConfigError, match="at least 1 block"):
        Pool(0)


def test_check_integrity_sees_a_wrong_count() -> None:
    pool = Pool(2)
    pool.allocate(1)
    pool.references[1] = 1
    with pytest.raises(EngineError):
        pool.check_integrity()
