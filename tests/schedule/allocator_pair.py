"""The block manager and its reference, side by side: every operation goes to both, then they are compared."""

from __future__ import annotations

from array import array

from reference_allocator import ReferenceAllocator
from sequences import make_fork, make_sequence

from vivace.core.sequence import Sequence
from vivace.schedule.block_manager import BlockManager
from vivace.schedule.prefix_index import BlockHash


class AllocatorPair:
    def __init__(self, num_blocks: int, block_size: int, block_hash: BlockHash) -> None:
        self.manager = BlockManager(num_blocks, block_size, block_hash=block_hash)
        self.reference = ReferenceAllocator(num_blocks, block_size)
        self.live: list[Sequence] = []
        self.outcomes: dict[object, int] = {}

    def admit(self, tokens: list[int], salt: bytes, use_cache: bool) -> None:
        sequence = make_sequence(tokens, salt=salt, use_prefix_cache=use_cache)
        expected = self.reference.admit(sequence, tokens, salt, use_cache)
        match = self.manager.match(sequence)
        found: int | str = len(match.blocks)
        if match.awaited is not None:
            found = "waits"
        elif not self.manager.can_admit(sequence, match):
            found = "full"
        else:
            self.manager.admit(sequence, match)
            self.live.append(sequence)
        self._compare(("admit", min(found, 1) if isinstance(found, int) else found), expected, found)

    def advance(self, sequence: Sequence, new_token: int, num_tokens: int, num_drafts: int) -> None:
        """Compute up to `num_tokens` pending tokens; where nothing is pending, append `new_token` first.

        Where they are the last ones, there is room for `num_drafts` more, which are all rejected.
        """
        if sequence.num_pending == 0:
            sequence.tokens.append(new_token)
        num_new = min(num_tokens, sequence.num_pending)
        num_room = num_new if num_new < sequence.num_pending else num_new + num_drafts
        expected = self.reference.grow(sequence, sequence.num_computed, num_room)
        found: bool | str = self.manager.can_grow(sequence, num_room)
        if found:
            ready = self.manager.has_room(sequence, num_room)
            blocks = list(sequence.block_ids)
            copy = self.manager.grow(sequence, num_room)
            assert not ready or (copy is None and sequence.block_ids == blocks)
            assert self.manager.has_room(sequence, num_room)
            found = "copied" if copy is not None else True
            sequence.num_computed += num_new
            self.manager.commit(sequence)
            self.reference.commit(sequence, sequence.tokens, sequence.num_computed)
        self._compare(("advance", found), expected, found)

    def fork(self, parent: Sequence, new_token: int) -> None:
        if parent.num_pending > 0:
            return
        child = make_fork(parent, 1)
        child.tokens = parent.tokens + array("i", [new_token])
        self.manager.fork(parent, child)
        self.reference.fork(parent, child, parent.num_computed)
        self.live.append(child)
        self._compare("fork", None, None)

    def release(self, sequence: Sequence) -> None:
        self.live.remove(sequence)
        self.manager.release(sequence)
        self.reference.release(sequence)
        self._compare("release", None, None)

    def _compare(self, outcome: object, expected: object, found: object) -> None:
        assert found == expected, outcome
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        manager = self.manager
        manager.check_integrity()
        assert (manager.num_free, manager.num_cached, manager.num_used) == self.reference.counts()
        names: dict[int, int] = {}
        for sequence in self.live:
            table = self.reference.tables[sequence]
            assert len(table) == len(sequence.block_ids)
            for block, name in zip(sequence.block_ids, table, strict=True):
                assert names.setdefault(block, name) == name, "two owners of one block that is not shared"
        assert len(set(names.values())) == len(names)
