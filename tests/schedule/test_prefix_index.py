from __future__ import annotations

from hashlib import blake2b

from sequences import make_sequence

from vivace.schedule.prefix_index import NO_PARENT, PrefixIndex, chained_hash


def test_the_hash_is_blake2b_over_the_parent_hash_and_the_content() -> None:
    first = chained_hash(b"", b"tokens")
    assert first == blake2b(bytes(16) + b"tokens", digest_size=16).digest()
    assert chained_hash(first, b"more") == blake2b(first + b"more", digest_size=16).digest()


def test_a_hash_finds_candidates_but_parent_and_content_decide() -> None:
    index = PrefixIndex()
    first = index.expect(b"h", NO_PARENT, b"abc")
    second = index.expect(b"h", NO_PARENT, b"xyz")
    below_first = index.expect(b"h", first.identity, b"abc")
    assert index.find(b"h", NO_PARENT, b"abc") is first
    assert index.find(b"h", NO_PARENT, b"xyz") is second
    assert index.find(b"h", first.identity, b"abc") is below_first
    assert index.find(b"h", second.identity, b"abc") is None
    assert index.find(b"other", NO_PARENT, b"abc") is None


def test_a_reused_block_number_is_not_its_old_parent() -> None:
    index = PrefixIndex()
    old = index.expect(b"h", NO_PARENT, b"old")
    index.complete(old, 7)
    child = index.expect(b"h", old.identity, b"child")
    index.complete(child, 8)
    index.evict(7)
    new = index.expect(b"h", NO_PARENT, b"new")
    index.complete(new, 7)
    assert index.find(b"h", new.identity, b"child") is None
    assert index.find(b"h", NO_PARENT, b"old") is None
    assert index.blocks == {7, 8}


def test_waiters_wake_when_an_entry_is_completed_or_dropped() -> None:
    index = PrefixIndex()
    completed, dropped = index.expect(b"a", NO_PARENT, b"a"), index.expect(b"b", NO_PARENT, b"b")
    first, second = make_sequence([1]), make_sequence([2])
    completed.waiters.append(first)
    dropped.waiters.append(second)
    assert completed.is_pending
    index.complete(completed, 3)
    assert not completed.is_pending
    index.drop(dropped)
    assert index.woken == [first, second]
    assert index.find(b"a", NO_PARENT, b"a") is completed
    assert index.find(b"b", NO_PARENT, b"b") is None
    assert len(index) == 1
