"""The life of one prompt, over an engine that says what the test tells it to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from scripted_engine import Capacity, Desk, ScriptedEngine, step
from virtual_server import run_virtually

from vivace.core.errors import DeadlineError, EngineError, OverloadedError, RequestError, UnavailableError
from vivace.core.sampling import SamplingParams
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.resources import embedded_model_path
from vivace.serve import generation as generation_module
from vivace.serve.admission import Ticket
from vivace.serve.batch import Batch
from vivace.serve.generation import Generation, Order, Piece, Prepared

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded_model_path())


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, DEADLINE_S))


@pytest.fixture
def run_in_its_own_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, None]], None]:
    """For deadlines: time passes only where everybody waits, not where this process stands still."""

    async def with_its_clock(work: Coroutine[Any, Any, None]) -> None:
        monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
        try:
            await work
        finally:
            monkeypatch.undo()

    return lambda work: run_virtually(with_its_clock(work))


def prepared(params: SamplingParams) -> Callable[[], Awaitable[Prepared]]:
    async def prepare() -> Prepared:
        return Prepared([1, 2, 3], params)

    return prepare


async def start(generation: Generation, prepare: Callable[[], Awaitable[Prepared]]) -> None:
    await generation.prepare(prepare)
    await generation.submit()


async def started(desk: Desk, generation: Generation, params: SamplingParams) -> asyncio.Task[None]:
    """A task that starts the generation, once the engine has its job."""
    num_before = len(desk.engine.streams)
    task = asyncio.create_task(start(generation, prepared(params)))
    while len(desk.engine.streams) == num_before and not task.done():
        await asyncio.sleep(0)
    return task


async def read(generation: Generation | Batch) -> list[list[Piece]]:
    return [pieces async for pieces in generation]


def test_what_came_while_nobody_read_is_one_piece(tokenizer: Tokenizer) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50)
        tokens = tokenizer.encode("Once upon a time there was a sea", add_special=False)
        with desk.generation(tokenizer, Order(params)) as generation:
            starting = await started(desk, generation, params)
            (stream,) = desk.engine.streams
            step(stream, *tokens, finish="length")
            await starting
            ((piece,),) = await read(generation)
        assert piece.text == "Once upon a time there was a sea"
        assert (piece.token_ids, piece.finish_reason) == (tokens, "length")
        assert desk.engine.aborted == []
        assert desk.is_idle

    run(work())


@pytest.mark.parametrize("at_once", [True, False])
def test_stop_string_over_several_tokens(tokenizer: Tokenizer, at_once: bool) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50, stop=("there was", "upon x"))
        tokens = tokenizer.encode("Once upon a time there was a sea", add_special=False)
        text = ""
        with desk.generation(tokenizer, Order(params)) as generation:
            starting = await started(desk, generation, params)
            (stream,) = desk.engine.streams
            step(stream, *(tokens if at_once else tokens[:1]))
            await starting
            later = iter(tokens[1:])
            async for pieces in generation:
                text += "".join(piece.text for piece in pieces)
                if not at_once and (token := next(later, None)) is not None:
                    step(stream, token)
            assert generation.is_finished
        assert text == "Once upon a time "
        assert desk.engine.stopped == [(0, "there was")]
        assert desk.engine.aborted == []
        assert desk.is_idle

    run(work())


def test_deadline_ends_what_runs(tokenizer: Tokenizer, run_in_its_own_time: Any) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50)
        with desk.generation(tokenizer, Order(params, deadline=time.monotonic() + 0.05)) as generation:
            starting = await started(desk, generation, params)
            step(desk.engine.streams[0], 100)
            await starting
            with pytest.raises(DeadlineError):
                await read(generation)
        assert desk.engine.aborted == ["job"]
        assert desk.is_idle

    run_in_its_own_time(work())


def test_deadline_ends_the_preparation(tokenizer: Tokenizer, run_in_its_own_time: Any) -> None:
    async def work() -> None:
        desk = Desk()
        never: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        order = Order(SamplingParams(max_tokens=50), deadline=time.monotonic() + 0.02)
        with pytest.raises(DeadlineError), desk.generation(tokenizer, order) as generation:
            await start(generation, lambda: never)
        assert desk.engine.streams == []
        assert desk.is_idle
        assert desk.metrics.finished["abort"] == 1

    run_in_its_own_time(work())


def test_deadline_before_the_first_token_is_raised_by_start(tokenizer: Tokenizer, run_in_its_own_time: Any) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50)
        with (
            pytest.raises(DeadlineError),
            desk.generation(tokenizer, Order(params, deadline=time.monotonic() + 0.02)) as generation,
        ):
            await start(generation, prepared(params))
        assert desk.engine.aborted == ["job"]
        assert desk.is_idle

    run_in_its_own_time(work())


def test_refusal_of_the_engine_is_raised_by_start(tokenizer: Tokenizer) -> None:
    async def work() -> None:
        desk, params = Desk(ScriptedEngine(refusal=RequestError("no", param="prompt"))), SamplingParams()
        with pytest.raises(RequestError, match="no"), desk.generation(tokenizer, Order(params)) as generation:
            await start(generation, prepared(params))
        assert desk.is_idle
        assert desk.metrics.finished["error"] == 1

    run(work())


def test_leaving_aborts(tokenizer: Tokenizer) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50, n=2)
        with desk.generation(tokenizer, Order(params)) as generation:
            starting = await started(desk, generation, params)
            step(desk.engine.streams[0], 100)
            await starting
            reading = asyncio.create_task(read(generation))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert desk.engine.aborted == ["job"]
        assert desk.is_idle

    run(work())


@pytest.mark.parametrize(("finish", "error"), [("error", EngineError), ("abort", UnavailableError)])
def test_other_ends_are_errors(tokenizer: Tokenizer, finish: Any, error: type[Exception]) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50)
        with desk.generation(tokenizer, Order(params)) as generation:
            starting = await started(desk, generation, params)
            step(desk.engine.streams[0], 100)
            await starting
            step(desk.engine.streams[0], finish=finish)
            with pytest.raises(error):
                await read(generation)
        assert desk.is_idle

    run(work())


def test_batch_counts_choices_over_prompts(tokenizer: Tokenizer) -> None:
    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50, n=2)
        generations = [desk.generation(tokenizer, Order(params), name) for name in ("a", "b")]
        with Batch(generations, 2) as batch:
            await batch.start([prepared(params)] * 2)
            collecting = asyncio.create_task(batch.collect())
            while len(desk.engine.streams) < 2:
                await asyncio.sleep(0)
            for number, stream in enumerate(desk.engine.streams):
                for index in (1, 0):
                    step(stream, 100 + 2 * number + index, index=index, finish="length")
            wholes = await collecting
            assert batch.usage.completion_tokens == 4
            assert batch.usage.prompt_tokens == 6
        assert [whole.token_ids for whole in wholes] == [[100], [101], [102], [103]]
        assert [whole.index for whole in wholes] == [0, 1, 2, 3]
        assert desk.is_idle

    run(work())


def test_one_failing_prompt_ends_the_batch(tokenizer: Tokenizer) -> None:
    async def refuse() -> Prepared:
        raise RequestError("no", param="prompt")

    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50)
        generations = [desk.generation(tokenizer, Order(params), name) for name in ("a", "b")]
        with pytest.raises(RequestError, match="no"), Batch(generations, 1) as batch:
            await batch.start([prepared(params), refuse])
        assert desk.is_idle

    run(work())


def test_prompts_that_find_the_door_full_follow_later(tokenizer: Tokenizer) -> None:
    async def work() -> None:
        desk, params = Desk(ScriptedEngine(Capacity(max_num_seqs=1))), SamplingParams(max_tokens=50)
        generations = [desk.generation(tokenizer, Order(params), name, is_let_in=name == "a") for name in "abc"]
        admission, num_open = desk.admission, 0
        enter = admission.enter

        def enter_one(**fields: Any) -> Ticket:
            if admission.num_in_engine or admission.num_queued:
                raise OverloadedError("full", retry_after_s=1.0)
            return enter(**fields)

        admission.enter = enter_one  # type: ignore[method-assign]
        with Batch(generations, 1) as batch:
            await batch.start([prepared(params)] * 3)
            collecting = asyncio.create_task(batch.collect())
            for number in range(3):
                while len(desk.engine.streams) <= number:
                    await asyncio.sleep(0)
                num_open = max(num_open, admission.num_in_engine)
                step(desk.engine.streams[number], 100 + number, finish="length")
            wholes = await collecting
        assert [whole.token_ids for whole in wholes] == [[100], [101], [102]]
        assert num_open == 1
        assert desk.is_idle

    run(work())


def test_a_slow_reader_holds_no_place(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_module, "READ_WAIT_S", 0.0)

    async def work() -> None:
        desk, params = Desk(), SamplingParams(max_tokens=50)
        with desk.generation(tokenizer, Order(params)) as generation:
            starting = await started(desk, generation, params)
            step(desk.engine.streams[0], 100)
            await starting
            assert not desk.is_idle
            step(desk.engine.streams[0], 101, finish="length")
            while not desk.is_idle:
                await asyncio.sleep(0)
            pieces = [piece for some in await read(generation) for piece in some]
        assert [token for piece in pieces for token in piece.token_ids] == [100, 101]
        assert desk.is_idle

    run(work())
