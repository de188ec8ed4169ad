"""The async engine: many streams at once, aborts, errors and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError, RequestError
from vivace.core.events import RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.engine.async_engine import AsyncEngine, _Order, _Stream
from vivace.engine.llm import LLM
from vivace.engine.loader import load_engine

GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
CONFIG = EngineConfig(max_num_seqs=8, max_model_len=128)


async def collect(stream: AsyncIterator[object]) -> tuple[str, RequestOutput]:
    text, final = "", None
    async for item in stream:
        if isinstance(item, RequestOutput):
            final = item
        else:
            text += item.text  # type: ignore[attr-defined]
    assert final is not None
    return text, final


def test_streams_equal_offline_generation() -> None:
    prompts = [f"Chapter {i}. The" for i in range(12)]

    async def serve() -> list[tuple[str, RequestOutput]]:
        async with AsyncEngine(load_engine(CONFIG)) as engine:
            return list(await asyncio.gather(*(collect(engine.generate(prompt, GREEDY)) for prompt in prompts)))

    expected = LLM(max_num_seqs=8, max_model_len=128).generate(prompts, GREEDY)
    served = asyncio.run(serve())
    assert [final.outputs[0].token_ids for _, final in served] == [one.outputs[0].token_ids for one in expected]
    assert [text for text, _ in served] == [one.outputs[0].text for one in expected]


def test_continuations_that_end_in_the_same_step_all_arrive() -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=4, max_tokens=5, ignore_eos=True)

    async def serve() -> tuple[str, RequestOutput]:
        async with AsyncEngine(load_engine(CONFIG)) as engine:
            served = await collect(engine.generate("The sea", params))
            await collect(engine.generate("The sea", GREEDY))  # the engine lives on
            return served

    _, final = asyncio.run(serve())
    expected = LLM(max_num_seqs=8, max_model_len=128).generate("The sea", params)[0]
    assert final.outputs == expected.outputs


def test_wrong_request_raises_in_its_own_stream_only() -> None:
    async def serve() -> tuple[str, RequestOutput]:
        async with AsyncEngine(load_engine(CONFIG)) as engine:
            good = asyncio.create_task(collect(engine.generate("The sea", GREEDY)))
            with pytest.raises(RequestError):
                await collect(engine.generate([], GREEDY))
            return await good

    assert len(asyncio.run(serve())[1].outputs[0].token_ids) == 10


def test_embeddings_equal_those_of_the_offline_engine() -> None:
    """Beside generation, and after one that was given up."""
    prompts = ["The sea", "In the morning " * 20, "x"]

    async def serve() -> list[list[float]]:
        async with AsyncEngine(load_engine(CONFIG)) as engine:
            beside = asyncio.create_task(collect(engine.generate("The sea", GREEDY)))
            given_up = asyncio.create_task(engine.embed(prompts[1]))
            await asyncio.sleep(0)
            given_up.cancel()
            outputs = await asyncio.gather(*(engine.embed(prompt) for prompt in prompts))
            last = await engine.embed(engine.loaded.encode("The sea"), pooling="last", normalize=False)
            with pytest.raises(RequestError):
                await engine.embed([])
            assert len((await beside)[1].outputs[0].token_ids) == 10
            engine.loaded.engine.scheduler.block_manager.check_integrity()
            return [output.embedding for output in (*outputs, last)]

    llm = LLM(max_num_seqs=8, max_model_len=128)
    expected = [*llm.embed(prompts), *llm.embed("The sea", pooling="last", normalize=False)]
    assert asyncio.run(serve()) == [output.embedding for output in expected]


def test_leaving_a_stream_aborts_it_and_abort_ends_one() -> None:
    async def serve() -> None:
        endless = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True)
        async with AsyncEngine(load_engine(CONFIG)) as engine:
            stream = engine.generate("The sea", endless)
            await anext(stream)
            await stream.aclose()
            named = asyncio.create_task(collect(engine.generate("The sea", endless, request_id="x")))
            await asyncio.sleep(0)
            await engine.abort("x")
            _, final = await named
            assert final.outputs[0].finish_reason in ("abort", "length")
            assert len((await collect(engine.generate("The", GREEDY)))[1].outputs[0].token_ids) == 10
            engine.loaded.engine.scheduler.block_manager.check_integrity()

    asyncio.run(serve())


def test_a_dying_engine_tells_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve() -> None:
        loaded = load_engine(CONFIG)
        monkeypatch.setattr(loaded.engine, "step", lambda: 1 / 0)
        engine = AsyncEngine(loaded)
        streams = [asyncio.create_task(collect(engine.generate("The sea", GREEDY))) for _ in range(3)]
        for stream in streams:
            with pytest.raises(EngineError, match="division by zero"):
                await stream
        with pytest.raises(EngineError):
            await collect(engine.generate("The sea", GREEDY))
        await engine.close()

    asyncio.run(serve())


def test_a_loop_that_closes_under_a_stream_does_not_end_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may close just when the engine's thread has a token for it."""
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "is_closed", lambda: False)  # as it was a moment ago
    loop.close()
    _Stream(loop, _Order("a", [1], GREEDY, 0, b"")).put(EngineError("nobody hears of it"))
