from __future__ import annotations

from typing import Any

import pytest
from sequences import make_fork, make_sequence
from simulated_engine import SimulatedEngine, outputs_alone

from vivace.core.errors import ConfigError, ContextLengthError, EngineError, RequestError
from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import StepPlan
from vivace.schedule import BlockManager, ContinuousBatching


def make_engine(num_blocks: int = 100, block_size: int = 4, **limits: Any) -> SimulatedEngine:
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 128, **limits}
    scheduler = ContinuousBatching(BlockManager(num_blocks, block_size), **limits)
    return SimulatedEngine(
        scheduler,
        max_num_seqs=limits["max_num_seqs"],
        max_num_batched_tokens=limits["max_num_batched_tokens"],
    )


def rows(plan: StepPlan) -> list[tuple[Sequence, int, int]]:
    return [(s.sequence, s.start, s.num_new) for s in plan.scheduled]


def counting(start: int, length: int) -> range:
    """A prompt that shares no block with one of another start."""
    return range(start * 1000, start * 1000 + length)


def test_decodes_go_first_then_chunks_then_newcomers() -> None:
    engine = make_engine(max_num_batched_tokens=20)
    long, short = make_sequence(counting(1, 30)), make_sequence(counting(2, 3))
    engine.add(long)
    engine.add(short)
    assert rows(engine.step()) == [(long, 0, 20)]
    assert rows(engine.step()) == [(long, 20, 10), (short, 0, 3)]
    another = make_sequence(counting(3, 50))
    engine.add(another)
    assert rows(engine.step()) == [(long, 30, 1), (short, 3, 1), (another, 0, 18)]
    newest = make_sequence(counting(4, 5))
    engine.add(newest)
    assert rows(engine.step()) == [(long, 31, 1), (short, 4, 1), (another, 18, 18)]
    assert rows(engine.step()) == [(long, 32, 1), (short, 5, 1), (another, 36, 14), (newest, 0, 4)]


def test_samples_only_where_the_last_token_is_computed() -> None:
    engine = make_engine(max_num_batched_tokens=4)
    engine.add(make_sequence(counting(1, 9)))
    assert [engine.step().scheduled[0].samples for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_chunks_have_the_size_asked_for(chunk: int) -> None:
    engine = make_engine(max_chunk_tokens=chunk)
    sequence = make_sequence(counting(1, 22), max_tokens=1)
    engine.add(sequence)
    sizes = []
    while sequence.state is not SequenceState.FINISHED:
        sizes.append(engine.step().num_tokens)
    full, rest = divmod(22, chunk)
    assert sizes == [chunk] * full + [rest] * (rest > 0)


def test_without_chunks_a_prompt_waits_until_it_fits_whole() -> None:
    engine = make_engine(max_num_batched_tokens=16, enable_chunked_prefill=False)
    first, second = make_sequence(counting(1, 10)), make_sequence(counting(2, 10))
    engine.add(first)
    engine.add(second)
    assert rows(engine.step()) == [(first, 0, 10)]
    assert rows(engine.step()) == [(first, 10, 1), (second, 0, 10)]
    with pytest.raises(ContextLengthError, match="max_num_batched_tokens = 16"):
        engine.add(make_sequence(counting(3, 17)))


def test_without_chunks_a_preempted_sequence_longer_than_a_step_comes_back_in_pieces() -> None:
    engine = make_engine(num_blocks=10, max_num_seqs=2, max_num_batched_tokens=12, enable_chunked_prefill=False)
    sequences = [make_sequence(counting(i, 10), max_tokens=26, seed=i) for i in (1, 2)]
    for sequence in sequences:
        engine.add(sequence)
    engine.run(200)
    assert sequences[1].num_preemptions > 0
    assert [s.output_tokens() for s in sequences] == [outputs_alone(s, 0) for s in sequences]


def test_requests_that_arrive_together_compute_their_prefix_once() -> None:
    engine = make_engine()
    common = list(counting(1, 16))
    first = make_sequence([*common, 1, 2])
    second, third = make_sequence([*common, 3]), make_sequence([*common, 4, 5])
    unrelated = make_sequence(counting(2, 5))
    for sequence in (first, second, third, unrelated):
        engine.add(sequence)
    assert rows(engine.step()) == [(first, 0, 18), (unrelated, 0, 5)]
    assert engine.scheduler.num_waiting == 2
    assert rows(engine.step())[2:] == [(second, 16, 1), (third, 16, 2)]
    assert second.num_cached == third.num_cached == 16


def test_a_follower_starts_as_soon_as_its_own_part_is_computed() -> None:
    engine = make_engine(max_num_batched_tokens=8)
    owner = make_sequence(counting(1, 40))
    follower = make_sequence([*counting(1, 12), 5])
    engine.add(owner)
    engine.add(follower)
    assert rows(engine.step()) == [(owner, 0, 8)]
    assert rows(engine.step()) == [(owner, 8, 8)]
    engine.scheduler.abort(owner)
    assert rows(engine.step()) == [(follower, 12, 1)]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_followers_of_an_aborted_owner_go_on_by_themselves(num_steps: int) -> None:
    engine = make_engine(max_num_batched_tokens=8)
    owner, first, second = (make_sequence([*counting(1, 32), i]) for i in range(3))
    for sequence in (owner, first, second):
        engine.add(sequence)
    for _ in range(num_steps):
        assert [s.sequence for s in engine.step().scheduled] == [owner]
    engine.abort(owner)
    assert rows(engine.step()) == [(first, 8 * num_steps, 8)]
    engine.abort(second)
    engine.run(50)
    assert first.output_tokens() == outputs_alone(first, 0)


def test_a_follower_aborted_while_it_waits_for_its_prefix_never_starts() -> None:
    engine = make_engine(max_num_batched_tokens=8)
    owner, gone, kept = (make_sequence([*counting(1, 32), i]) for i in range(3))
    for sequence in (owner, gone, kept):
        engine.add(sequence)
    assert rows(engine.step()) == [(owner, 0, 8)]
    assert engine.scheduler.num_waiting == 2
    engine.abort(gone)
    assert engine.scheduler.num_waiting == 1
    engine.run(60)
    assert engine.started == [owner, kept]
    assert kept.output_tokens() == outputs_alone(kept, 0)
    assert engine.manager.num_used == 0


def test_followers_of_a_preempted_owner_go_on() -> None:
    engine = make_engine(num_blocks=12, max_num_batched_tokens=8, max_chunk_tokens=4)
    oldest = make_sequence(counting(1, 7), max_tokens=34, seed=1)
    owner, follower = (make_sequence([*counting(2, 30), i], max_tokens=4) for i in range(2))
    for sequence in (oldest, owner, follower):
        engine.add(sequence)
    engine.run(200)
    assert owner.num_preemptions > 0
    assert len(engine.finished) == 3


def test_salted_requests_do_not_wait_for_each_other() -> None:
    engine = make_engine()
    for salt in (b"a", b"b"):
        engine.add(make_sequence(counting(1, 16), salt=salt))
    assert len(engine.step().scheduled) == 2


def test_preemption_takes_the_last_arrival_of_the_worst_priority() -> None:
    engine = make_engine(num_blocks=6)
    first = make_sequence(counting(1, 8))
    background = make_sequence(counting(2, 8), priority=5)
    last = make_sequence(counting(3, 7))
    engine.scheduler.add(background)
    engine.step()
    engine.add(first)
    engine.step()
    assert background.num_preemptions == 0
    engine.add(last)
    plan = engine.step()  # the two need a third block each, and two are left
    assert plan.preempted == []
    for sequence in (first, background):
        assert len(sequence.block_ids) == 3
    while not plan.preempted:
        plan = engine.step()
    assert plan.preempted[0] is background
    assert (background.row, background.num_computed, background.block_ids) == (-1, 0, [])
    assert background.state is SequenceState.WAITING
    engine.run(100)
    assert {s.output_tokens() == outputs_alone(s, 0) for s in (first, background, last)} == {True}


def test_a_preempted_sequence_comes_first_in_its_priority() -> None:
    engine = make_engine(num_blocks=7, max_num_seqs=2)
    first, second, third = (make_sequence(counting(i, 10), max_tokens=8, seed=4) for i in (1, 2, 3))
    for sequence in (first, second, third):
        engine.add(sequence)
    engine.run(100)
    assert second.num_preemptions > 0
    assert third.num_preemptions == 0
    assert engine.finished == [first, second, third]


def test_waiting_sequences_are_admitted_by_priority() -> None:
    engine = make_engine(max_num_seqs=1)
    low, high, normal = (make_sequence(counting(i, 5), priority=p, max_tokens=2) for i, p in enumerate((1, -1, 0)))
    for sequence in (low, high, normal):
        engine.add(sequence)
    engine.run(20)
    assert engine.started == [high, normal, low]


def test_rows_are_stable_and_reused() -> None:
    engine = make_engine(max_num_seqs=2)
    first, second, third = (make_sequence(counting(i, 5), seed=4, max_tokens=20) for i in range(3))
    for sequence in (first, second, third):
        engine.add(sequence)
    engine.step()
    assert (first.row, second.row, third.row) == (0, 1, -1)
    row = first.row
    engine.abort(first)
    plan = engine.step()
    assert (first.row, second.row, third.row) == (-1, 1, row)
    assert plan.table_resets == [third]


def test_forks_share_the_prompt_and_reserve_their_rows() -> None:
    engine = make_engine(max_num_seqs=4)
    parent = make_sequence(counting(1, 6), n=3, seed=1)
    wide, narrow = make_sequence(counting(2, 6), n=2), make_sequence(counting(3, 6))
    for sequence in (parent, wide, narrow):
        engine.add(sequence)
    assert rows(engine.step()) == [(parent, 0, 6)]  # 3 rows taken, `wide` needs 2, `narrow` is behind it
    plan = engine.step()
    assert [s.sequence for s in plan.scheduled] == [parent, *engine.forks]
    assert len(plan.block_copies) == 2  # the third writer has the block for itself
    assert set(plan.table_resets) == {parent, *engine.forks}
    engine.run(100)
    for sequence in (parent, *engine.forks):
        assert sequence.output_tokens() == outputs_alone(sequence, sequence.index)


def test_preempted_forks_are_computed_again_one_by_one() -> None:
    engine = make_engine(num_blocks=9)
    parent = make_sequence(counting(1, 14), n=4, max_tokens=20, seed=1)
    engine.add(parent)
    engine.run(500)
    assert engine.scheduler.num_preemptions > 0
    assert len(engine.finished) == 4
    for sequence in engine.finished:
        assert sequence.output_tokens() == outputs_alone(sequence, sequence.index)


def test_a_victim_that_was_already_planned_leaves_no_trace_in_the_plan() -> None:
    engine = make_engine(num_blocks=10, max_num_batched_tokens=24, max_chunk_tokens=10)
    parent = make_sequence(counting(1, 18), n=2, priority=1, seed=1)
    others = [make_sequence(counting(i, 8), seed=1) for i in (2, 3)]
    engine.add(parent)
    engine.step()
    for sequence in others:
        engine.add(sequence)
    assert rows(engine.step()) == [(parent, 10, 8), (others[0], 0, 8), (others[1], 0, 8)]
    plan = engine.step()  # the parent copies into the last block, then the others need one each
    assert plan.preempted == [*engine.forks, parent]
    assert rows(plan) == [(others[0], 8, 1), (others[1], 8, 1)]
    assert (plan.block_copies, plan.table_resets, plan.num_tokens) == ([], [], 2)
    engine.run(200)
    for sequence in engine.finished:
        assert sequence.output_tokens() == outputs_alone(sequence, sequence.index)


def test_sequences_finished_during_a_step_are_left_alone() -> None:
    engine = make_engine()
    kept, gone = make_sequence(counting(1, 9)), make_sequence(counting(2, 9))
    engine.add(kept)
    engine.add(gone)
    plan = engine.scheduler.plan()
    engine.scheduler.abort(gone)
    engine.scheduler.commit(plan)
    engine.manager.check_integrity()
    assert (kept.num_computed, gone.num_computed) == (9, 0)
    engine.scheduler.abort(gone)
    assert engine.scheduler.num_running == 1


def test_aborting_a_waiting_sequence_forgets_it() -> None:
    engine = make_engine(max_num_seqs=1)
    running, queued = make_sequence(counting(1, 9)), make_sequence(counting(2, 9))
    engine.add(running)
    engine.add(queued)
    engine.step()
    engine.abort(queued)
    assert engine.scheduler.num_waiting == 0
    engine.abort(running)
    assert not engine.scheduler.has_unfinished
    assert engine.scheduler.idle_s is None
    assert not engine.scheduler.plan()


def test_what_can_never_run_is_refused() -> None:
    engine = make_engine(num_blocks=5, max_model_len=64)
    add = engine.scheduler.add
    with pytest.raises(ContextLengthError, match="reach 21 tokens"):
        add(make_sequence(counting(1, 10), max_tokens=12))
    with pytest.raises(ContextLengthError, match="KV cache holds 20"):
        add(make_sequence(counting(1, 10), max_tokens=None))
    with pytest.raises(ContextLengthError, match="context window 64"):
        add(make_sequence(counting(1, 65)))
    with pytest.raises(RequestError, match="no tokens"):
        add(make_sequence([]))
    with pytest.raises(RequestError, match="n = 5"):
        add(make_sequence([1], n=5))
    add(make_sequence(counting(1, 10), max_tokens=11))
    add(make_sequence(counting(2, 20), max_tokens=1))
    engine.run(50)


def test_a_prompt_of_exactly_the_context_fits() -> None:
    engine = make_engine(num_blocks=16, max_model_len=64)
    engine.add(make_sequence(counting(1, 64), max_tokens=None))
    assert engine.step().num_tokens == 64


def test_wrong_limits_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="max_num_seqs must be"):
        make_engine(max_num_seqs=0)
    with pytest.raises(ConfigError, match="at least max_num_seqs"):
        make_engine(max_num_seqs=8, max_num_batched_tokens=7)
    with pytest.raises(ConfigError, match="max_chunk_tokens"):
        make_engine(max_chunk_tokens=0)


def test_an_engine_that_breaks_its_promises_is_told() -> None:
    engine = make_engine(num_blocks=2)
    sequence = make_sequence(counting(1, 6), max_tokens=2)
    engine.add(sequence)
    engine.scheduler.commit(engine.scheduler.plan())
    with pytest.raises(EngineError, match="no fork to make"):
        engine.scheduler.fork(sequence, make_fork(sequence, 1))
    sequence.tokens.extend([1, 2, 3])
    with pytest.raises(EngineError, match="grown beyond"):
        engine.scheduler.plan()
