from __future__ import annotations

import pytest
from sequences import make_fork, make_sequence

from vivace.core.errors import ConfigError, EngineError
from vivace.core.sequence import Sequence
from vivace.schedule import BlockManager


def admit(manager: BlockManager, sequence: Sequence) -> Sequence:
    match = manager.match(sequence)
    assert match.awaited is None
    assert manager.can_admit(sequence, match)
    manager.admit(sequence, match)
    return sequence


def compute(manager: BlockManager, sequence: Sequence, num_new: int | None = None) -> tuple[int, int] | None:
    num_new = sequence.num_pending if num_new is None else num_new
    copy = manager.grow(sequence, num_new)
    sequence.num_computed += num_new
    manager.commit(sequence)
    manager.check_integrity()
    return copy


def run(manager: BlockManager, sequence: Sequence) -> Sequence:
    compute(manager, admit(manager, sequence))
    return sequence


def counts(manager: BlockManager) -> tuple[int, int, int]:
    manager.check_integrity()
    return manager.num_free, manager.num_cached, manager.num_used


def test_a_finished_prefix_is_shared() -> None:
    manager = BlockManager(10, 4)
    first = run(manager, make_sequence(range(10)))
    blocks = list(first.block_ids)
    manager.release(first)
    assert counts(manager) == (8, 2, 0)
    second = admit(manager, make_sequence([*range(8), 99, 98, 97]))
    assert second.block_ids[:2] == blocks[:2]
    assert (second.num_computed, second.num_cached) == (8, 8)
    assert (manager.num_prefix_queries, manager.num_prefix_hits) == (21, 8)
    assert manager.usage == 0.3


def test_a_running_prefix_is_shared() -> None:
    manager = BlockManager(10, 4)
    first = run(manager, make_sequence(range(9)))
    second = admit(manager, make_sequence(range(9)))
    assert second.block_ids[:2] == first.block_ids[:2]
    assert counts(manager) == (6, 0, 4)


@pytest.mark.parametrize(("length", "cached"), [(7, 4), (8, 4), (9, 8)])
def test_the_last_token_is_always_computed(length: int, cached: int) -> None:
    manager = BlockManager(10, 4)
    manager.release(run(manager, make_sequence(range(12))))
    again = admit(manager, make_sequence(range(length)))
    assert again.num_cached == cached
    assert again.num_pending > 0
    compute(manager, again)


def test_salts_separate_prefixes() -> None:
    manager = BlockManager(20, 4)
    manager.release(run(manager, make_sequence(range(9), salt=b"one")))
    assert admit(manager, make_sequence(range(9), salt=b"two")).num_cached == 0
    assert admit(manager, make_sequence(range(9))).num_cached == 0
    assert admit(manager, make_sequence(range(9), salt=b"one")).num_cached == 8


def test_a_salt_cannot_pretend_to_be_a_parent_or_tokens() -> None:
    manager = BlockManager(20, 2, block_hash=lambda _parent, _content: b"")
    first = run(manager, make_sequence([1, 2, 3, 4, 5]))
    pretended = make_sequence([3, 4, 5], salt=first.tokens[:2].tobytes())
    assert manager.match(pretended).blocks == []


def test_colliding_hashes_never_share() -> None:
    manager = BlockManager(30, 2, block_hash=lambda _parent, _content: b"constant")
    manager.release(run(manager, make_sequence([1, 2, 3, 4, 5])))
    manager.release(run(manager, make_sequence([6, 7, 3, 4, 8])))
    assert admit(manager, make_sequence([9, 9, 3, 4, 5])).num_cached == 0
    assert admit(manager, make_sequence([1, 2, 4, 3, 5])).num_cached == 2
    assert admit(manager, make_sequence([3, 4, 1, 2, 5])).num_cached == 0
    assert admit(manager, make_sequence([1, 2, 3, 4, 9])).num_cached == 4
    assert admit(manager, make_sequence([6, 7, 3, 4, 5])).num_cached == 4


def test_a_sequence_may_refuse_the_cache_and_still_fill_it() -> None:
    manager = BlockManager(20, 4)
    manager.release(run(manager, make_sequence(range(9), use_prefix_cache=False)))
    assert admit(manager, make_sequence(range(9), use_prefix_cache=False)).num_cached == 0
    assert admit(manager, make_sequence(range(9))).num_cached == 8


def test_without_prefix_caching_nothing_is_kept() -> None:
    manager = BlockManager(10, 4, enable_prefix_caching=False)
    sequence = run(manager, make_sequence(range(9)))
    assert (sequence.num_registered, sequence.block_hashes) == (2, [])
    manager.release(sequence)
    assert counts(manager) == (10, 0, 0)
    assert admit(manager, make_sequence(range(9))).num_cached == 0


def test_blocks_filled_while_generating_are_shared_too() -> None:
    manager = BlockManager(10, 4)
    sequence = run(manager, make_sequence([1, 2, 3]))
    for token in (4, 5, 6, 7, 8):
        sequence.tokens.append(token)
        compute(manager, sequence)
    manager.release(sequence)
    assert admit(manager, make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])).num_cached == 8


def test_prefixes_outlive_what_hangs_on_them() -> None:
    manager = BlockManager(4, 4)
    sequence = run(manager, make_sequence(range(16)))
    manager.release(sequence)
    other = run(manager, make_sequence([50, 51, 52, 53, 54]))  # evicts the last two blocks
    manager.release(other)
    assert len(manager.match(make_sequence(range(16))).blocks) == 2


def test_matched_blocks_are_not_evicted_for_their_own_sequence() -> None:
    manager = BlockManager(4, 4)
    manager.release(run(manager, make_sequence(range(8))))
    longer = make_sequence(range(17))
    assert not manager.can_admit(longer, manager.match(longer))
    fitting = admit(manager, make_sequence(range(16)))
    assert fitting.num_cached == 8
    assert len(set(fitting.block_ids)) == 4


def test_pending_blocks_are_awaited_up_to_the_last_shared_one() -> None:
    manager = BlockManager(20, 4)
    owner = admit(manager, make_sequence(range(16)))
    follower = make_sequence([*range(12), 77, 78])
    match = manager.match(follower)
    assert match.awaited is not None
    match.awaited.waiters.append(follower)
    compute(manager, owner, 8)
    assert manager.take_woken() == []
    assert len(manager.match(follower).blocks) == 2
    assert manager.match(follower).awaited is match.awaited
    compute(manager, owner, 4)
    assert manager.take_woken() == [follower]
    assert manager.take_woken() == []
    assert admit(manager, follower).num_cached == 12


def test_a_released_owner_leaves_no_pending_blocks() -> None:
    manager = BlockManager(20, 4)
    owner = admit(manager, make_sequence(range(16)))
    compute(manager, owner, 5)
    follower = make_sequence(range(16))
    awaited = manager.match(follower).awaited
    assert awaited is not None
    awaited.waiters.append(follower)
    manager.release(owner)
    assert manager.take_woken() == [follower]
    assert admit(manager, follower).num_cached == 4


def test_forks_copy_the_partial_block_when_they_write_it() -> None:
    manager = BlockManager(20, 4)
    parent = run(manager, make_sequence(range(6)))
    children = [make_fork(parent, index) for index in (1, 2)]
    for child in children:
        manager.fork(parent, child)
        assert child.block_ids == parent.block_ids
    assert counts(manager) == (18, 0, 2)
    shared = list(parent.block_ids)
    copies = []
    for sequence in (parent, *children):
        sequence.tokens.append(9)
        assert manager.has_room(sequence, 1) == (sequence is children[-1])
        copies.append(compute(manager, sequence))
    assert copies == [(shared[1], parent.block_ids[1]), (shared[1], children[0].block_ids[1]), None]
    assert {s.block_ids[0] for s in (parent, *children)} == {shared[0]}
    assert len({s.block_ids[1] for s in (parent, *children)}) == 3
    for sequence in (children[0], parent, children[1]):
        manager.release(sequence)
    assert counts(manager) == (19, 1, 0)


def test_forks_at_a_block_boundary_copy_nothing() -> None:
    manager = BlockManager(20, 4)
    parent = run(manager, make_sequence(range(8)))
    child = make_fork(parent, 1)
    manager.fork(parent, child)
    for sequence in (parent, child):
        sequence.tokens.append(9)
        assert compute(manager, sequence) is None
    assert parent.block_ids[:2] == child.block_ids[:2]
    assert parent.block_ids[2] != child.block_ids[2]


def test_can_grow_counts_the_copy() -> None:
    manager = BlockManager(2, 4)
    parent = run(manager, make_sequence(range(6)))
    child = make_fork(parent, 1)
    manager.fork(parent, child)
    parent.tokens.append(9)
    assert not manager.can_grow(parent, 1)
    manager.release(child)
    assert manager.can_grow(parent, 1)
    assert manager.grow(parent, 1) is None


def test_misuse_is_an_engine_error() -> None:
    manager = BlockManager(10, 4)
    sequence = admit(manager, make_sequence(range(6)))
    with pytest.raises(EngineError, match="admitted twice"):
        manager.admit(sequence, manager.match(sequence))
    with pytest.raises(EngineError, match="forked before"):
        manager.fork(sequence, make_fork(sequence, 1))
    sequence.block_ids.append(9)
    with pytest.raises(EngineError, match="KV block 9 has 0 references but 1 owners"):
        manager.check_integrity()
    with pytest.raises(ConfigError, match="block_size"):
        BlockManager(10, 0)
