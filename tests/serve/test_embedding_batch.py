"""Many inputs through admission and a real engine's process: order, bounds, ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from vivace.core.config import EngineConfig
from vivace.core.errors import ContextLengthError, DeadlineError, OverloadedError, RequestError
from vivace.engine.llm import LLM
from vivace.serve.admission import Admission, AdmissionLimits, Ticket
from vivace.serve.embedding import MAX_AT_ONCE, EmbeddingBatch, EmbeddingOrder, Input
from vivace.serve.metrics import ServerMetrics
from vivace.worker.supervisor import EngineClient

SEED = 20261122
DEADLINE_S = 120.0
OPTIONS = {"max_model_len": 1024, "max_num_seqs": 128, "num_threads": 1}
ORDER = EmbeddingOrder("request", "key", "mean")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner) -> Iterator[EngineClient]:
    client = EngineClient(EngineConfig(**OPTIONS))
    runner.run(client.start())
    yield client
    runner.run(client.close())


@pytest.fixture
def admission(engine: EngineClient) -> Admission:
    return Admission(AdmissionLimits(engine.info))


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(**OPTIONS)


def prompts(count: int, low: int = 1, high: int = 12) -> list[list[int]]:
    generator = random.Random(SEED)
    return [[generator.randrange(4096) for _ in range(generator.randint(low, high))] for _ in range(count)]


class Kept(dict[int, list[float]]):
    """What a batch was given, and the batch."""

    def __init__(
        self, engine: EngineClient, admission: Admission, inputs: Sequence[Input], order: EmbeddingOrder = ORDER
    ) -> None:
        super().__init__()

        async def encode(text: str) -> list[int]:
            raise RequestError(f"no text here: {text}", param="prompt")

        self.batch = EmbeddingBatch(engine, admission, ServerMetrics(), encode, order, inputs, self.__setitem__)


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


async def is_left_idle(engine: EngineClient, admission: Admission) -> None:
    assert (admission.num_queued, admission.num_queued_tokens, admission.num_in_engine) == (0, 0, 0)
    assert admission.num_worst_case_blocks == 0
    await reached(
        lambda: engine.gauges.num_running == engine.gauges.num_waiting == engine.gauges.num_used_blocks == 0
    )


def test_every_input_gets_its_own_vector(
    runner: asyncio.Runner, engine: EngineClient, admission: Admission, llm: LLM
) -> None:
    inputs = prompts(3 * MAX_AT_ONCE + 5)
    expected = [output.embedding for output in llm.embed(inputs, normalize=False)]

    async def run() -> None:
        kept = Kept(engine, admission, inputs)
        await kept.batch.run()
        assert [kept[number] for number in range(len(inputs))] == expected
        assert kept.batch.num_prompt_tokens == sum(map(len, inputs))
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))


def test_small_queue_takes_many_inputs_in_turn(runner: asyncio.Runner, engine: EngineClient) -> None:
    admission = Admission(AdmissionLimits(engine.info, max_queued_requests=3))

    async def run() -> None:
        kept = Kept(engine, admission, prompts(50))
        await kept.batch.run()
        assert len(kept) == 50
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))


def test_no_room_for_the_first_input_is_a_refusal_at_once(runner: asyncio.Runner, engine: EngineClient) -> None:
    admission = Admission(AdmissionLimits(engine.info, max_queued_requests=1))

    async def run() -> None:
        with admission.enter(key="other", num_bytes=10, max_tokens=1):
            kept = Kept(engine, admission, prompts(5))
            with pytest.raises(OverloadedError):
                await kept.batch.run()
            assert not kept
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))


def test_goes_on_with_fewer_where_room_is_lost(runner: asyncio.Runner, engine: EngineClient) -> None:
    """Others fill the queue while the batch is under way: what it has in the engine carries it on."""
    admission = Admission(AdmissionLimits(engine.info))
    inputs = prompts(3 * MAX_AT_ONCE)
    refusals = 0

    async def run() -> None:
        nonlocal refusals
        kept = Kept(engine, admission, inputs)
        enter = admission.enter

        def enter_or_not(**options: Any) -> Ticket:
            nonlocal refusals
            if admission.num_in_engine and refusals < 30:
                refusals += 1
                raise OverloadedError("full", retry_after_s=1.0)
            return enter(**options)

        admission.enter = enter_or_not  # type: ignore[method-assign]
        await kept.batch.run()
        assert len(kept) == len(inputs)
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))
    assert refusals > 0


def test_long_inputs_go_a_few_at_a_time(runner: asyncio.Runner, engine: EngineClient, admission: Admission) -> None:
    """Two steps of work at most lie ready, so that others of the same key need not wait for all of it."""
    length = engine.info.max_num_batched_tokens

    async def run() -> None:
        task = asyncio.ensure_future(Kept(engine, admission, prompts(20, length, length)).batch.run())
        most = 0
        while not task.done():
            most = max(most, admission.num_queued + admission.num_in_engine)
            await asyncio.sleep(0)
        await task
        assert most == 2
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))


def test_deadline_ends_all_of_it(runner: asyncio.Runner, engine: EngineClient, admission: Admission) -> None:
    inputs = prompts(400, 1000, 1020)

    async def run() -> None:
        order = replace(ORDER, deadline=time.monotonic() + 0.3)
        with pytest.raises(DeadlineError):
            await Kept(engine, admission, inputs, order).batch.run()
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))


def test_cancelling_ends_all_of_it(runner: asyncio.Runner, engine: EngineClient, admission: Admission) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(Kept(engine, admission, prompts(400, 1000, 1020)).batch.run())
        await reached(lambda: engine.gauges.num_running > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))


@pytest.mark.parametrize(
    ("bad", "error"), [([5] * 1025, ContextLengthError), ([4096], RequestError), ("text", RequestError)]
)
def test_one_bad_input_refuses_the_request(
    runner: asyncio.Runner, engine: EngineClient, admission: Admission, bad: Input, error: type[RequestError]
) -> None:
    async def run() -> None:
        with pytest.raises(error) as caught:
            await Kept(engine, admission, [*prompts(100), bad, *prompts(100)]).batch.run()
        assert caught.value.param == "input"
        await is_left_idle(engine, admission)

    runner.run(asyncio.wait_for(run(), DEADLINE_S))
