"""What a sequence waited for, and what it lost, as its history has it."""

from __future__ import annotations

from sequences import make_sequence

from vivace.core.history import Preemption
from vivace.core.sequence import Sequence
from vivace.schedule import BlockManager, ContinuousBatching, StaticBatching


def scheduler(num_blocks: int = 64, **limits: int) -> ContinuousBatching:
    sizes = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 200, **limits}
    return ContinuousBatching(BlockManager(num_blocks, 4), **sizes)


def run(policy: ContinuousBatching | StaticBatching, steps: int) -> None:
    """Every sequence that samples gets one token."""
    for _ in range(steps):
        plan = policy.plan()
        policy.commit(plan)
        for item in plan.scheduled:
            if item.samples:
                item.sequence.tokens.append(7)


def added(policy: ContinuousBatching | StaticBatching, *lengths: int, first: int = 0) -> list[Sequence]:
    """Sequences that share nothing."""
    sequences = []
    for number, length in enumerate(lengths, first):
        sequences.append(make_sequence([1000 * number + place for place in range(length)]))
        policy.add(sequences[-1])
    return sequences


def test_rows() -> None:
    policy = scheduler(max_num_seqs=1)
    one, two = added(policy, 4, 4)
    run(policy, 3)
    assert policy.obstacles(two) == {"rows": 3}
    policy.finish(one)
    run(policy, 1)
    assert two.history.obstacles == {"rows": 3} == policy.obstacles(two)
    assert one.history.obstacles == {}


def test_tokens_of_the_step() -> None:
    policy = scheduler()
    _, two = added(policy, 40, 4)
    run(policy, 2)
    assert policy.obstacles(two) == {"tokens": 2}
    run(policy, 1)
    assert two.row >= 0


def test_blocks() -> None:
    policy = scheduler(num_blocks=8)
    one, two = added(policy, 16, 16)
    run(policy, 3)
    assert policy.obstacles(two) == {"tokens": 1, "blocks": 2}  # the first step was full as well
    late = added(policy, 4, first=2)[0]
    assert policy.obstacles(late) == {}
    policy.finish(one)
    run(policy, 1)
    assert two.history.obstacles == {"tokens": 1, "blocks": 2}


def test_a_prefix_that_another_one_computes() -> None:
    policy = scheduler()
    sequences = [make_sequence(list(range(40))) for number in range(2)]
    for sequence in sequences:
        policy.add(sequence)
    run(policy, 3)
    assert [one.history.num_prefix_waits for one in sequences] == [0, 1]


def test_preemption_notes_what_was_lost_and_to_whom() -> None:
    policy = scheduler(num_blocks=8)
    one, two = added(policy, 12, 12)
    run(policy, 12)
    assert two.num_preemptions == 1
    # Both fill four of the eight blocks with 16 tokens; the first, a step ahead, asks for the ninth.
    assert two.history.preemptions == [Preemption(num_output=4, num_lost=15, for_itself=False)]
    assert one.history.preemptions == []


def test_a_static_batch() -> None:
    batch = StaticBatching(
        BlockManager(64, 4),
        max_num_seqs=1,
        max_num_batched_tokens=16,
        max_model_len=200,
        max_wait_s=0.0,
        clock=lambda: 0.0,
    )
    first, second = added(batch, 4, 4)
    run(batch, 2)
    assert batch.obstacles(second) == {"batch": 1}
    batch.finish(first)
    run(batch, 1)
    assert second.history.obstacles == {"batch": 1}
