from __future__ import annotations

from typing import Any

import pytest
from sequences import make_sequence
from simulated_engine import SimulatedEngine, outputs_alone

from vivace.core.errors import ConfigError, ContextLengthError
from vivace.core.sequence import Sequence, SequenceState
from vivace.schedule import BlockManager, StaticBatching


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_engine(clock: Clock, num_blocks: int = 100, **limits: Any) -> SimulatedEngine:
    limits = {
        "max_num_seqs": 3,
        "max_num_batched_tokens": 64,
        "max_model_len": 128,
        "max_wait_s": 2.0,
        "clock": clock,
        **limits,
    }
    return SimulatedEngine(
        StaticBatching(BlockManager(num_blocks, 4), **limits),
        max_num_seqs=limits["max_num_seqs"],
        max_num_batched_tokens=limits["max_num_batched_tokens"],
    )


def make_prompt(number: int, max_tokens: int = 4, n: int = 1) -> Sequence:
    return make_sequence(range(number * 100, number * 100 + 6), max_tokens=max_tokens, n=n, seed=4)


def scheduled(engine: SimulatedEngine) -> list[Sequence]:
    return [row.sequence for row in engine.step().scheduled]


def test_a_full_batch_starts_at_once() -> None:
    engine = make_engine(Clock())
    sequences = [make_prompt(i) for i in range(4)]
    for sequence in sequences[:2]:
        engine.add(sequence)
    assert scheduled(engine) == []
    for sequence in sequences[2:]:
        engine.add(sequence)
    assert scheduled(engine) == sequences[:3]


def test_an_unfilled_batch_starts_when_its_oldest_member_has_waited() -> None:
    clock = Clock()
    engine = make_engine(clock)
    scheduler = engine.scheduler
    assert scheduler.idle_s is None
    first, second = make_prompt(1), make_prompt(2)
    engine.add(first)
    assert scheduler.idle_s == 2.0
    clock.now += 1.5
    engine.add(second)
    assert scheduler.idle_s == 0.5
    assert scheduled(engine) == []
    clock.now += 0.5
    assert scheduler.idle_s == 0.0
    assert scheduled(engine) == [first, second]


def test_nobody_joins_before_all_members_are_finished() -> None:
    clock = Clock()
    engine = make_engine(clock)
    members = [make_prompt(1, max_tokens=1), make_prompt(2, max_tokens=2), make_prompt(3, max_tokens=5)]
    late = make_prompt(4)
    for sequence in [*members, late]:
        engine.add(sequence)
    clock.now += 10
    assert scheduled(engine) == members
    while members[2].state is not SequenceState.FINISHED:
        assert late.state is SequenceState.WAITING
        unfinished = [s for s in members if s.state is not SequenceState.FINISHED]
        assert scheduled(engine) == unfinished
    assert scheduled(engine) == [late]


def test_forks_count_as_rows_of_the_batch() -> None:
    engine = make_engine(Clock())
    pair, single, next_pair = make_prompt(1, n=2), make_prompt(2), make_prompt(3, n=2)
    engine.add(pair)
    assert scheduled(engine) == []
    for sequence in (single, next_pair):
        engine.add(sequence)
    assert scheduled(engine) == [pair, single]
    assert scheduled(engine) == [pair, single, *engine.forks]


def test_members_that_find_no_blocks_run_within_the_same_batch() -> None:
    clock = Clock()
    engine = make_engine(clock, num_blocks=5)
    members = [make_prompt(i, max_tokens=12) for i in range(3)]
    late = make_prompt(9)
    for sequence in [*members, late]:
        engine.add(sequence)
    clock.now += 10
    engine.run(200)
    assert engine.started == [*members, late]
    assert engine.finished[-1] is late
    for sequence in engine.finished:
        assert sequence.output_tokens() == outputs_alone(sequence, 0)


def test_aborts_while_gathering_and_while_running() -> None:
    engine = make_engine(Clock())
    gathering = make_prompt(1)
    engine.add(gathering)
    engine.abort(gathering)
    assert gathering.state is SequenceState.FINISHED
    assert (engine.scheduler.num_waiting, engine.scheduler.idle_s) == (0, None)
    members = [make_prompt(i) for i in (2, 3, 4)]
    for sequence in members:
        engine.add(sequence)
    engine.step()
    assert engine.scheduler.num_running == 3
    for sequence in members:
        engine.abort(sequence)
    assert not engine.scheduler.has_unfinished


def test_wrong_requests_and_limits_are_refused_at_once() -> None:
    engine = make_engine(Clock(), num_blocks=2)
    with pytest.raises(ContextLengthError):
        engine.add(make_prompt(1, max_tokens=20))
    assert engine.scheduler.num_waiting == 0
    with pytest.raises(ConfigError, match="max_wait_s"):
        make_engine(Clock(), max_wait_s=-1.0)
