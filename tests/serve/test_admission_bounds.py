"""Bounds hold at every moment, and what leaves leaves nothing behind, whatever order things happen in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_server import Capacity, Request, Server, run_virtually

from vivace.core.errors import ContextLengthError, OverloadedError, RequestError
from vivace.serve.admission import Admission, AdmissionLimits, Ticket

SMALL = Capacity(max_num_seqs=4, num_kv_blocks=64, max_model_len=512)
MAX_REQUESTS, MAX_TOKENS, MAX_BLOCKS = 12, 1_000, 256
NUM_ACTIONS = 80
SEED = 20261122


@dataclass
class Action:
    """What a client does: it comes, and `cancel_s` later it is gone (never: None)."""

    delay_s: float
    key: str
    num_prompt: int
    num_output: int
    max_tokens: int | None
    priority: int
    cancel_s: float | None
    timeout_s: float | None
    bytes_per_token: float


def random_action(chance: random.Random) -> Action:
    return Action(
        delay_s=chance.choice([0.0, 0.0, 0.0, 0.01, 0.3]),
        key=chance.choice("abc"),
        num_prompt=chance.choice([5, 50, chance.randint(1, 400)]),
        num_output=chance.randint(1, 20),
        max_tokens=chance.choice([None, 20, 100]),
        priority=chance.randint(-2, 2),
        cancel_s=chance.choice([None, None, chance.uniform(0.0, 3.0)]),
        timeout_s=chance.choice([None, None, chance.uniform(0.01, 5.0)]),
        bytes_per_token=chance.uniform(0.2, 8.0),
    )


@dataclass
class Watch:
    """The fullest that admission has been while more than one request waited: the first one always may."""

    most_requests: int = 0
    most_tokens: int = 0
    most_blocks: int = 0
    most_sequences: int = 0
    outcomes: list[Request] = field(default_factory=list)

    def look(self, admission: Admission) -> None:
        self.most_requests = max(self.most_requests, admission.num_queued)
        self.most_sequences = max(self.most_sequences, admission.num_in_engine)
        if admission.num_queued > 1:
            self.most_tokens = max(self.most_tokens, admission.num_queued_tokens)
            self.most_blocks = max(self.most_blocks, admission.num_worst_case_blocks)


async def play(chance: random.Random) -> tuple[Server, Watch]:
    bounds = {
        "max_queued_requests": MAX_REQUESTS,
        "max_queued_tokens": MAX_TOKENS,
        "max_worst_case_pools": MAX_BLOCKS / SMALL.num_kv_blocks,
        "max_queue_s": chance.choice([1.0, 100.0]),
    }
    server, watch, loop = Server(SMALL, **bounds), Watch(), asyncio.get_running_loop()
    tasks = []
    for action in [random_action(chance) for _ in range(NUM_ACTIONS)]:
        await asyncio.sleep(action.delay_s)
        request = Request(
            key=action.key,
            num_prompt=action.num_prompt,
            num_output=action.num_output,
            max_tokens=action.max_tokens,
            priority=action.priority,
            timeout_s=action.timeout_s,
            bytes_per_token=action.bytes_per_token,
        )
        tasks.append(asyncio.create_task(server.serve(request)))
        if action.cancel_s is not None:
            loop.call_later(action.cancel_s, tasks[-1].cancel)
        await asyncio.sleep(0)
        watch.look(server.admission)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Request):
            watch.outcomes.append(result)
        else:
            assert isinstance(result, asyncio.CancelledError), result
    server.stop()
    return server, watch


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_bounds_hold_and_everything_is_released(seed: int) -> None:
    server, watch = run_virtually(play(random.Random(seed)))
    assert watch.most_requests <= MAX_REQUESTS
    assert watch.most_tokens <= MAX_TOKENS
    assert watch.most_blocks <= MAX_BLOCKS
    assert watch.most_sequences <= SMALL.max_num_seqs
    for request in watch.outcomes:  # everyone was told something
        assert request.finished is not None or request.refused_after_s is not None or request.is_late
    assert_empty(server.admission)


def assert_empty(admission: Admission) -> None:
    assert (admission.num_queued, admission.num_queued_tokens) == (0, 0)
    assert (admission.num_in_engine, admission.num_worst_case_blocks) == (0, 0)
    assert admission.predicted_wait_s("a") == 0.0
    assert admission.predicted_wait_s("b", 5) == 0.0


def full_server() -> tuple[Admission, Ticket]:
    """Nothing measured yet; one request has the whole engine, so that the next ones wait."""
    admission = Admission(AdmissionLimits(Capacity(max_num_seqs=1)))
    ticket = admission.enter(key="a", num_bytes=300, max_tokens=16)
    ticket.measured(100, 16)
    return admission, ticket


def test_a_deadline_ends_the_wait_without_the_engine() -> None:
    async def main() -> tuple[Request, Request, int]:
        server = Server(Capacity(max_num_seqs=1))
        long = asyncio.create_task(server.serve(Request(num_output=200, max_tokens=200)))
        await asyncio.sleep(0.001)
        late = await server.serve(Request(timeout_s=0.5, num_prompt=5))
        assert server.time() == pytest.approx(0.501, abs=0.002)
        result = await long
        server.stop()
        return result, late, server.engine.numbers.num_computed_tokens

    long, late, num_computed = run_virtually(main())
    assert long.finished is not None
    assert late.is_late
    assert num_computed < 100 + 200, "the late one's prompt was never computed"


def test_a_turn_that_comes_far_too_late_is_refused_with_the_time_to_come_again() -> None:
    async def main() -> Request:
        server = Server(Capacity(max_num_seqs=1), max_queue_s=2.0)
        long = asyncio.create_task(server.serve(Request(num_output=900, max_tokens=900)))
        await asyncio.sleep(0.001)
        late = await server.serve(Request())
        await long
        server.stop()
        return late

    late = run_virtually(main())
    assert late.refused_after_s == pytest.approx(2.4, abs=0.002)
    assert late.retry_after_s is not None
    assert late.retry_after_s >= 1.0


def test_a_request_cancelled_in_the_moment_of_its_turn_gives_its_place_on() -> None:
    async def main() -> None:
        admission, first = full_server()
        await first.turn()

        async def wait() -> None:
            with admission.enter(key="a", num_bytes=300, max_tokens=16) as ticket:
                ticket.measured(100, 16)
                await ticket.turn()

        second, third = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        first.release()  # the second has its turn, but has not run since
        second.cancel()
        await third
        assert second.cancelled()
        assert_empty(admission)

    run_virtually(main())


def test_a_request_longer_than_the_context_is_wrong_not_early() -> None:
    admission = Admission(AdmissionLimits(SMALL))
    for num_prompt, num_new in ((600, 1), (512, 1), (513, 0)):
        with (
            pytest.raises(ContextLengthError, match="context of 512"),
            admission.enter(key="a", num_bytes=10, max_tokens=1) as ticket,
        ):
            ticket.measured(num_prompt, num_new)
    with admission.enter(key="a", num_bytes=10, max_tokens=0) as ticket:
        ticket.measured(512, 0)
    with (
        pytest.raises(RequestError, match="n = 5"),
        admission.enter(key="a", num_bytes=10, max_tokens=1, n=5) as ticket,
    ):
        ticket.measured(10, 1)
    assert_empty(admission)


def test_bytes_that_become_many_more_tokens_break_the_bound_when_they_are_known() -> None:
    admission = Admission(AdmissionLimits(Capacity(max_model_len=100_000), max_queued_tokens=1_000))
    with admission.enter(key="a", num_bytes=300, max_tokens=1) as first:
        first.measured(100, 1)
        with (
            pytest.raises(OverloadedError, match="too many prompt tokens"),
            admission.enter(key="b", num_bytes=300, max_tokens=1) as second,
        ):
            second.measured(50_000, 1)
        assert admission.num_queued_tokens == 100
    assert_empty(admission)


def test_the_first_may_be_larger_than_every_bound() -> None:
    admission = Admission(AdmissionLimits(Capacity(max_model_len=100_000), max_queued_tokens=1_000))

    async def main() -> None:
        with admission.enter(key="a", num_bytes=200_000, max_tokens=None) as ticket:
            ticket.measured(50_000, 50_000)
            await ticket.turn()

    run_virtually(main())
    assert_empty(admission)


def test_one_key_cannot_fill_the_room() -> None:
    """A fast model, for which the predicted wait is not what refuses."""
    admission = Admission(AdmissionLimits(Capacity(max_num_seqs=1, weight_bytes=1), max_queued_requests=90))
    tickets = [admission.enter(key="flood", num_bytes=30, max_tokens=1) for _ in range(80)]  # 8/9 of 90
    with pytest.raises(OverloadedError, match="too many requests"):
        admission.enter(key="flood", num_bytes=30, max_tokens=1)
    other = admission.enter(key="other", num_bytes=30, max_tokens=1)
    assert +admission.num_refused == {"requests": 1}
    for ticket in (*tickets, other):
        ticket.release()
    assert_empty(admission)


def test_body_longer_than_any_prompt_keeps_nobody_out() -> None:
    """It is refused once it is encoded; until then it counts for what could come of it at most."""
    admission = Admission(AdmissionLimits(SMALL, max_queued_tokens=2 * SMALL.max_model_len))
    with admission.enter(key="large", num_bytes=1 << 22, max_tokens=0) as large:
        with admission.enter(key="other", num_bytes=100, max_tokens=10):
            assert admission.num_queued == 2
        with pytest.raises(ContextLengthError):
            large.measured(1 << 20, 0)


def test_what_is_refused_unread_would_be_refused_read() -> None:
    """And the other way round, where the number of requests or the wait is the reason. Virtual time does not pass."""
    chance = random.Random(SEED)
    num_refused = num_open = 0
    for _ in range(60):
        limits = AdmissionLimits(
            SMALL,
            max_queued_requests=chance.randint(1, 12),
            max_queue_s=chance.choice([0.2, 1.0, 10.0]),
            default_prompt_tokens_per_s=1_000.0,
            default_generation_tokens_per_s=100.0,
        )
        admission = Admission(limits, clock=lambda: 0.0)
        for _ in range(30):
            key, priority = chance.choice("abc"), chance.randint(-2, 2)
            refusal = outcome(partial(admission.refuse_unread, key, priority))
            num_bytes, max_tokens = chance.choice([1, 100, 1_000]), chance.choice([1, 20, None])
            enter = partial(admission.enter, key=key, num_bytes=num_bytes, max_tokens=max_tokens, priority=priority)
            entered = outcome(enter)
            if refusal is not None:
                assert entered is not None, (SEED, key, priority)
                num_refused += 1
            elif entered is not None:
                assert "prompt tokens wait" in entered or "KV cache" in entered, (SEED, entered)
            else:
                num_open += 1
    assert num_refused > 100
    assert num_open > 100


def outcome(action: Callable[[], object]) -> str | None:
    try:
        action()
    except OverloadedError as error:
        return str(error)
    return None
