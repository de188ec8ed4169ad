from __future__ import annotations

import random

import pytest
from sequences import make_sequence

from vivace.core.sequence import Sequence
from vivace.schedule.queue import WaitingQueue


def drain(queue: WaitingQueue) -> list[Sequence]:
    return [queue.pop() for _ in range(len(queue))]


def test_order_is_priority_then_arrival() -> None:
    queue = WaitingQueue()
    late, urgent, early = make_sequence([1]), make_sequence([1], priority=-1), make_sequence([1], priority=3)
    for sequence in (early, late, urgent):
        queue.push(sequence)
    assert queue.peek() is urgent
    assert drain(queue) == [urgent, late, early]


def test_a_sequence_that_comes_back_keeps_its_place() -> None:
    queue = WaitingQueue()
    first, second, third = (make_sequence([1]) for _ in range(3))
    for sequence in (first, second, third):
        queue.push(sequence)
    assert queue.pop() is first
    queue.push(first)
    assert queue.remove(second)
    queue.push(second)
    assert drain(queue) == [first, second, third]


def test_removal() -> None:
    queue = WaitingQueue()
    sequence = make_sequence([1])
    assert not queue.remove(sequence)
    queue.push(sequence)
    assert sequence in queue
    assert queue.remove(sequence)
    assert sequence not in queue
    assert len(queue) == 0
    assert queue.peek() is None
    with pytest.raises(IndexError):
        queue.pop()


def test_random_pushes_and_removals_against_a_sorted_list() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    queue = WaitingQueue()
    model: list[Sequence] = []
    for _ in range(5_000):
        kind = chance.random()
        if kind < 0.5:
            sequence = make_sequence([1], priority=chance.randint(0, 3))
            queue.push(sequence)
            model.append(sequence)
        elif kind < 0.8 and model:
            sequence = model.pop(chance.randrange(len(model)))
            assert queue.remove(sequence)
        elif model:
            sequence = min(model, key=lambda s: (s.priority, s.arrival))
            model.remove(sequence)
            assert queue.pop() is sequence
        assert len(queue) == len(model)
    assert drain(queue) == sorted(model, key=lambda s: (s.priority, s.arrival))
