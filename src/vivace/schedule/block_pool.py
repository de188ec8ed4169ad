"""Reference-counted KV blocks and the free list that decides which cached block is overwritten next.

Every block is in exactly one of three states:
  used    referenced by at least one sequence
  free    referenced by none, its content is worthless
  cached  referenced by none, its content can still be shared
"""

from __future__ import annotations

from collections.abc import Callable

from vivace.core.errors import ConfigError, EngineError


class BlockPool:
    """Hands out block numbers in [0, num_blocks). Every operation on one block is O(1).

    Unreferenced blocks form one doubly linked list, kept in two arrays with a sentinel at `num_blocks`: free
    blocks are put at its front and cached ones at its back, so that allocation, which takes from the front,
    uses up every free block before it evicts the cached block that was released longest ago.
    `on_evict(block)` is called when a cached block is about to be handed out for something else.
    """

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None]) -> None:
        if num_blocks < 1:
            raise ConfigError(f"the KV pool needs at least 1 block, got {num_blocks}")
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self.num_cached = 0
        self.references = [0] * num_blocks  # read-only for others
        self._on_evict = on_evict
        self._is_cached = bytearray(num_blocks)
        self._sentinel = num_blocks
        self._next: list[int] = [*range(1, num_blocks + 1), 0]
        self._previous: list[int] = [num_blocks, *range(num_blocks)]

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can hand out: free ones and, after them, cached ones."""
        return self.num_free + self.num_cached

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free - self.num_cached

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, each with one reference."""
        if count > self.num_available:
            raise EngineError(f"{count} KV blocks asked for, {self.num_available} available")
        return [self._take_first() for _ in range(count)]

    def share(self, block: int) -> None:
        """Add a reference to a used or cached block."""
        if self.references[block] == 0:
            if not self._is_cached[block]:
                raise EngineError(f"KV block {block} is free: it has no content to share")
            self._unlink(block)
            self.num_cached -= 1
        self.references[block] += 1

    def release(self, block: int) -> None:
        """Drop one reference. To make prefixes live longest, release a sequence's blocks from its last one."""
        references = self.references[block]
        if references < 1:
            raise EngineError(f"KV block {block} released more often than referenced")
        self.references[block] = references - 1
        if references > 1:
            return
        if self._is_cached[block]:
            self.num_cached += 1
            self._link_before(block, self._sentinel)
        else:
            self.num_free += 1
            self._link_before(block, self._next[self._sentinel])

    def mark_cached(self, block: int) -> None:
        """The content of this used block can be shared, also after its last release, until it is evicted."""
        if self.references[block] < 1:
            raise EngineError(f"KV block {block} is not in use: its content cannot be cached")
        self._is_cached[block] = 1

    def is_cached(self, block: int) -> bool:
        """Whether the content is registered as shareable, be the block used or not."""
        return bool(self._is_cached[block])

    def census(self, first: int, end: int) -> tuple[int, int, int, int]:
        """How many of the blocks [first, end) are free, cached, used by one sequence, and used by several."""
        references = self.references[first:end]
        num_idle, num_single = references.count(0), references.count(1)
        is_cached = self._is_cached[first:end]
        if num_idle == len(references):
            num_cached = is_cached.count(1)
        else:
            num_cached = sum(kept for kept, users in zip(is_cached, references, strict=True) if not users)
        return num_idle - num_cached, num_cached, num_single, len(references) - num_idle - num_single

    def check_integrity(self) -> None:
        """Walk the free list and compare it with the counts. Raises `EngineError`."""
        seen: list[int] = []
        block = self._next[self._sentinel]
        while block != self._sentinel and len(seen) <= self.num_blocks:
            if self._previous[self._next[block]] != block or self.references[block] != 0:
                raise EngineError(f"the free list is broken at KV block {block}")
            seen.append(block)
            block = self._next[block]
        num_cached = sum(self._is_cached[block] for block in seen)
        num_used = sum(references > 0 for references in self.references)
        found = (len(seen) - num_cached, num_cached, num_used)
        counted = (self.num_free, self.num_cached, self.num_used)
        if found != counted or sum(found) != self.num_blocks:
            raise EngineError(f"KV blocks free, cached, used: counted {counted}, found {found}")

    def _take_first(self) -> int:
        block = self._next[self._sentinel]
        self._unlink(block)
        if self._is_cached[block]:
            self._is_cached[block] = 0
            self.num_cached -= 1
            self._on_evict(block)
        else:
            self.num_free -= 1
        self.references[block] = 1
        return block

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before

    def _link_before(self, block: int, after: int) -> None:
        before = self._previous[after]
        self._next[before] = block
        self._previous[block] = before
        self._next[block] = after
        self._previous[after] = block
