"""Why a prefix was not in the cache: each reason, made to happen."""

from __future__ import annotations

from array import array

import pytest
from sequences import make_sequence

from vivace.core.history import PrefixMiss
from vivace.core.sequence import Sequence
from vivace.schedule import BlockManager
from vivace.schedule.prefix_index import MAX_EVICTED, MAX_SIBLINGS, PrefixIndex

SIZE = 4
PROMPT = list(range(100, 118))  # four whole blocks and two tokens


def computed(manager: BlockManager, tokens: list[int], salt: bytes = b"", **options: bool) -> Sequence:
    """A sequence that was admitted and has filled its blocks; it still runs."""
    sequence = make_sequence(tokens, salt=salt, **options)
    manager.admit(sequence, manager.match(sequence))
    sequence.num_computed = len(tokens)
    manager.commit(sequence)
    return sequence


def miss(manager: BlockManager, tokens: list[int], salt: bytes = b"", **options: bool) -> PrefixMiss | None:
    sequence = computed(manager, tokens, salt, **options)
    manager.release(sequence)
    return sequence.history.miss


def test_never_computed_then_complete() -> None:
    manager = BlockManager(64, SIZE)
    assert miss(manager, PROMPT) == PrefixMiss(0, "never")
    assert miss(manager, PROMPT) == PrefixMiss(4, "complete")
    assert miss(manager, [*PROMPT, 1, 2, 3, 4, 5]) == PrefixMiss(4, "never")  # nothing went on from there
    assert miss(manager, [7, *PROMPT]) == PrefixMiss(0, "never")


@pytest.mark.parametrize("position", [1, 2, 3, 4, 7, 8, 15])
def test_the_first_different_token(position: int) -> None:
    manager = BlockManager(64, SIZE)
    computed(manager, PROMPT)
    other = [*PROMPT[:position], 5, *PROMPT[position + 1 :]]
    assert miss(manager, other) == PrefixMiss(position // SIZE, "different", position)


def test_the_nearest_of_several_is_compared() -> None:
    manager = BlockManager(64, SIZE)
    for number in range(MAX_SIBLINGS - 1):
        computed(manager, [*PROMPT[: SIZE + number % 3], 5 + number, *PROMPT])
    assert miss(manager, [*PROMPT[: SIZE + 3], 99, *PROMPT]) == PrefixMiss(1, "different", SIZE + 2)


def test_nothing_to_cache_or_not_wanted() -> None:
    manager = BlockManager(64, SIZE)
    assert miss(manager, [1, 2, 3, 4]) == PrefixMiss(0, "short")  # the last token is always computed
    assert miss(manager, PROMPT, use_prefix_cache=False) == PrefixMiss(0, "unused")
    assert miss(BlockManager(64, SIZE, enable_prefix_caching=False), PROMPT) == PrefixMiss(0, "off")


def test_evicted() -> None:
    manager = BlockManager(5, SIZE)
    assert miss(manager, PROMPT) == PrefixMiss(0, "never")
    assert miss(manager, list(range(12))) == PrefixMiss(0, "never")  # takes the free one and two that were last
    again = make_sequence(PROMPT)
    match = manager.match(again)
    assert len(match.blocks) == 2
    manager.admit(again, match)
    assert again.history.miss == PrefixMiss(2, "evicted")


def test_a_salt_tells_nothing_of_what_others_have_cached() -> None:
    manager = BlockManager(64, SIZE)
    computed(manager, PROMPT, b"theirs")
    assert miss(manager, PROMPT, b"mine") == PrefixMiss(0, "salt")
    assert miss(manager, [*PROMPT[:2], 5, 6, 7], b"mine") == PrefixMiss(0, "different", 2)  # from my own
    assert miss(manager, PROMPT, b"minex") == PrefixMiss(0, "salt")
    assert miss(manager, PROMPT) == PrefixMiss(0, "never")


def test_the_first_admission_is_what_counts() -> None:
    manager = BlockManager(64, SIZE)
    sequence = computed(manager, PROMPT)
    manager.release(sequence)
    manager.admit(sequence, manager.match(sequence))
    assert sequence.history.miss == PrefixMiss(0, "never")


def test_memory_of_families_and_evictions_is_bounded() -> None:
    index = PrefixIndex(num_token_bytes=4)
    entries = [index.expect(bytes([number, 0]), 7, array("i", [number]).tobytes()) for number in range(100)]
    assert len(index.siblings(7, b"")) == MAX_SIBLINGS
    for number, entry in enumerate(entries):
        index.complete(entry, number)
        index.evict(number)
    assert index.siblings(7, b"") == []
    assert index._families == {}
    for number in range(MAX_EVICTED):
        entry = index.expect(number.to_bytes(4), 8, number.to_bytes(4))
        index.complete(entry, 0)
        index.evict(0)
    assert len(index._evicted) == MAX_EVICTED
    assert not index.was_evicted(bytes([0, 0]))
