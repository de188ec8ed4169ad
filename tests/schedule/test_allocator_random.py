"""The block manager against a reference allocator made of dicts and sets."""

from __future__ import annotations

import random

import pytest
from allocator_pair import AllocatorPair
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vivace.schedule.prefix_index import BlockHash, chained_hash

NUM_OPERATIONS = 100_000


def colliding_hash(_parent_hash: bytes, _content: bytes) -> bytes:
    return b"all blocks alike"


HASHES: dict[str, BlockHash] = {"blake2b": chained_hash, "constant": colliding_hash}
tokens = st.integers(0, 1)


class AllocatorMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(1, 24), block_size=st.integers(1, 4), block_hash=st.sampled_from(list(HASHES.values()))
    )
    def start(self, num_blocks: int, block_size: int, block_hash: BlockHash) -> None:
        self.pair = AllocatorPair(num_blocks, block_size, block_hash)

    @rule(
        prompt=st.lists(tokens, min_size=1, max_size=20), salt=st.sampled_from([b"", b"a"]), use_cache=st.booleans()
    )
    def admit(self, prompt: list[int], salt: bytes, use_cache: bool) -> None:
        self.pair.admit(prompt, salt, use_cache)

    @precondition(lambda self: self.pair.live)
    @rule(data=st.data(), token=tokens, num_tokens=st.integers(1, 9), num_drafts=st.integers(0, 3))
    def advance(self, data: st.DataObject, token: int, num_tokens: int, num_drafts: int) -> None:
        self.pair.advance(data.draw(st.sampled_from(self.pair.live)), token, num_tokens, num_drafts)

    @precondition(lambda self: self.pair.live)
    @rule(data=st.data(), token=tokens)
    def fork(self, data: st.DataObject, token: int) -> None:
        self.pair.fork(data.draw(st.sampled_from(self.pair.live)), token)

    @precondition(lambda self: self.pair.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pair.release(data.draw(st.sampled_from(self.pair.live)))

    @invariant()
    def every_block_is_in_one_state(self) -> None:
        manager = self.pair.manager
        assert manager.num_free + manager.num_cached + manager.num_used == manager.num_blocks

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            for sequence in list(self.pair.live):
                self.pair.release(sequence)
            assert self.pair.manager.num_used == 0


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", HASHES)
def test_random_operations_agree_with_the_reference(name: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    operations = 0
    outcomes: set[object] = set()
    while operations < NUM_OPERATIONS // 2:
        pair = AllocatorPair(chance.randint(1, 40), chance.randint(1, 4), HASHES[name])
        vocabulary = chance.randint(1, 3)
        for _ in range(2_500):
            apply_random_operation(pair, chance, vocabulary)
        for sequence in list(pair.live):
            pair.release(sequence)
        assert pair.manager.num_used == 0
        operations += sum(pair.outcomes.values())
        outcomes |= set(pair.outcomes)
    print(f"{operations} operations")
    assert outcomes == {
        "fork", "release",
        ("admit", 0), ("admit", 1), ("admit", "waits"), ("admit", "full"),
        ("advance", True), ("advance", False), ("advance", "copied"),
    }  # fmt: skip


def apply_random_operation(pair: AllocatorPair, chance: random.Random, vocabulary: int) -> None:
    kind = chance.random()
    if not pair.live or kind < 0.25:
        prompt = [chance.randrange(vocabulary) for _ in range(chance.randint(1, 16))]
        pair.admit(prompt, chance.choice([b"", b"", b"salt"]), chance.random() < 0.9)
        return
    sequence = chance.choice(pair.live)
    token = chance.randrange(vocabulary)
    if kind < 0.75:
        pair.advance(sequence, token, chance.randint(1, 8), chance.choice([0, 0, 0, 1, 5]))
    elif kind < 0.8:
        pair.fork(sequence, token)
    else:
        pair.release(sequence)
