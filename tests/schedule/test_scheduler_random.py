"""Random traffic through the policies: right blocks, right limits, nobody starves, nothing leaks."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from sequences import make_sequence
from simulated_engine import VOCABULARY, SimulatedEngine, outputs_alone

from vivace.core.errors import ContextLengthError
from vivace.core.sequence import Sequence, SequenceState
from vivace.schedule import BlockManager, ContinuousBatching, StaticBatching

NUM_OPERATIONS = 40_000
MAX_MODEL_LEN = 64


@dataclass
class Limits:
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_chunk_tokens: int | None
    enable_chunked_prefill: bool
    enable_prefix_caching: bool


def random_limits(chance: random.Random) -> Limits:
    max_num_seqs = chance.randint(1, 8)
    block_size = chance.randint(1, 5)
    return Limits(
        num_blocks=chance.randint(20, 120) // block_size,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + chance.randint(0, 30),
        max_chunk_tokens=chance.choice([None, 1, 3, 8]),
        enable_chunked_prefill=chance.random() < 0.7,
        enable_prefix_caching=chance.random() < 0.7,
    )


def make_scheduler(policy: str, limits: Limits, now: list[float]) -> ContinuousBatching | StaticBatching:
    manager = BlockManager(limits.num_blocks, limits.block_size, limits.enable_prefix_caching)
    if policy == "continuous":
        return ContinuousBatching(
            manager,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_len=MAX_MODEL_LEN,
            enable_chunked_prefill=limits.enable_chunked_prefill,
            max_chunk_tokens=limits.max_chunk_tokens,
        )
    return StaticBatching(
        manager,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=MAX_MODEL_LEN,
        max_wait_s=3.0,
        clock=lambda: now[0],
        enable_chunked_prefill=limits.enable_chunked_prefill,
        max_chunk_tokens=limits.max_chunk_tokens,
    )


def random_sequence(chance: random.Random, max_num_seqs: int) -> Sequence:
    common = [2, 1, 3, 4, 1, 1, 2, 3, 4, 4, 2, 1] * chance.randint(0, 2)
    prompt = common[: chance.randint(0, 24)] + [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 8))]
    return make_sequence(
        prompt,
        max_tokens=chance.randint(1, 24),
        n=chance.randint(1, min(3, max_num_seqs)),
        priority=chance.choice([0, 0, 0, 1]),
        salt=chance.choice([b"", b"", b"salt"]),
        use_prefix_cache=chance.random() < 0.9,
        seed=chance.randrange(3),
    )


def play(policy: str, chance: random.Random) -> SimulatedEngine:
    """One machine's life: arrivals, steps and aborts at random, then it drains."""
    limits = random_limits(chance)
    now = [0.0]
    scheduler = make_scheduler(policy, limits, now)
    engine = SimulatedEngine(
        scheduler, max_num_seqs=limits.max_num_seqs, max_num_batched_tokens=limits.max_num_batched_tokens
    )
    requests: list[Sequence] = []
    aborted: set[Sequence] = set()
    for _ in range(60):
        now[0] += 1.0
        for _ in range(chance.choice([0, 0, 1, 5])):
            sequence = random_sequence(chance, limits.max_num_seqs)
            try:
                engine.add(sequence)
            except ContextLengthError:
                continue
            requests.append(sequence)
        unfinished = [s for s in requests + engine.forks if s.state is not SequenceState.FINISHED]
        if unfinished and chance.random() < 0.1:
            victim = chance.choice(unfinished)
            engine.abort(victim)
            aborted.add(victim)
        engine.step()
    now[0] += 100.0
    # Every step computes a token at least; twice the tokens leave room for what preemption computes again.
    unfinished = [s for s in requests + engine.forks if s.state is not SequenceState.FINISHED]
    engine.run(2 * sum((1 + s.num_forks) * (s.num_prompt + 24) for s in unfinished))
    for sequence in engine.finished:
        assert sequence.output_tokens() == outputs_alone(sequence, sequence.index)
    for sequence in requests:
        assert sequence.state is SequenceState.FINISHED
        assert sequence in aborted or sequence.num_forks == 0
    assert set(engine.finished) | aborted == set(requests + engine.forks)
    return engine


@pytest.mark.parametrize("policy", ["continuous", "static"])
def test_random_traffic(policy: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    operations = preemptions = copies = hits = 0
    while operations < NUM_OPERATIONS:
        engine = play(policy, chance)
        operations += engine.num_operations
        preemptions += engine.scheduler.num_preemptions
        copies += engine.num_copies
        hits += engine.manager.num_prefix_hits
    print(f"{operations} operations, {preemptions} preemptions, {copies} copies, {hits} prefix hits")
    assert min(preemptions, copies, hits) > 100


def test_admission_is_first_in_first_out_within_a_priority() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for policy in ["continuous", "static"] * 20:
        limits = random_limits(chance)
        limits.enable_prefix_caching = False  # who waits for a prefix steps aside for others
        now = [0.0]
        scheduler = make_scheduler(policy, limits, now)
        engine = SimulatedEngine(
            scheduler, max_num_seqs=limits.max_num_seqs, max_num_batched_tokens=limits.max_num_batched_tokens
        )
        added: list[Sequence] = []
        for _ in range(30):
            sequence = random_sequence(chance, limits.max_num_seqs)
            try:
                engine.add(sequence)
            except ContextLengthError:
                continue
            added.append(sequence)
        now[0] = 100.0
        engine.run(20_000)
        assert engine.started == sorted(added, key=lambda s: (s.priority, s.arrival))
