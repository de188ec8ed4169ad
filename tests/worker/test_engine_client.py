"""The engine in its own process says what the bare engine says, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from gate import Gate
from worker_jobs import VOCABULARY, Answer, make_jobs, num_tokens, read, running, tiny_config, undisturbed, until

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError, ContextLengthError, EngineError, ModelFileError, RequestError
from vivace.core.sampling import SamplingParams
from vivace.engine.loader import load_engine
from vivace.worker.job import Job
from vivace.worker.process import engine_info
from vivace.worker.supervisor import EngineClient

ENDLESS = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True, seed=0)
SHORT = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, seed=0)


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    return tiny_config(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_streams_equal_the_bare_engine(config: EngineConfig, run: Callable[..., dict[str, Answer]]) -> None:
    jobs = make_jobs(18, seed=1)

    async def serve() -> dict[str, Answer]:
        async with running(config) as client:
            answers = await asyncio.gather(*(read(client.submit(job)) for job in jobs))
            return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    assert run(serve()) == undisturbed(config, jobs)


def test_facts_gauges_and_times(config: EngineConfig, gate: Gate) -> None:
    told: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        told.append((done, total))

    async def serve() -> None:
        async with running(config, on_progress=note, command=gate.command) as client:
            assert client.info == engine_info(load_engine(config))
            assert client.state == "ready"
            endless = client.submit(Job("endless", [1], ENDLESS))
            first = await anext(endless)
            assert (first[0].request_id, first[0].index, first[0].token is None) == ("endless", 0, False)
            assert client.gauges.num_running == 1
            endless.abort()
            await read(endless)
            await until(lambda: client.gauges.num_running == 0)
            earlier = client.gauges
            before = time.monotonic()
            prompt = list(range(100))
            stream = client.submit(Job("a", prompt, SHORT))
            await read(stream)
            again = client.submit(Job("b", prompt, SHORT))
            await read(again)
            assert (stream.num_cached_tokens, again.num_cached_tokens) == (0, 96)
            timings = stream.timings
            assert timings.admitted is not None
            assert timings.first_token is not None
            assert timings.finished is not None
            assert before <= timings.arrival <= timings.admitted <= timings.first_token <= timings.finished
            assert timings.finished <= time.monotonic()
            gauges = client.gauges
            assert (gauges.num_running, gauges.num_waiting, gauges.num_used_blocks, gauges.num_restarts) == (0,) * 4
            assert gauges.num_cached_blocks + gauges.num_free_blocks == 256
            assert gauges.num_prompt_tokens - earlier.num_prompt_tokens == 200
            assert gauges.num_generation_tokens - earlier.num_generation_tokens == 10
            assert gauges.num_prefix_queries - earlier.num_prefix_queries == 200
            assert gauges.num_prefix_hits - earlier.num_prefix_hits == 96
            assert gauges.last_step_s > 0

    asyncio.run(serve())
    assert told[-1][0] == told[-1][1] > 0


def test_refusals_end_their_own_stream_only(config: EngineConfig, gate: Gate) -> None:
    async def serve() -> None:
        async with running(config, command=gate.command) as client:
            good = client.submit(Job("good", [1, 2, 3], ENDLESS))  # runs as long as the others are refused
            for job, kind, param in (
                (Job("empty", [], SHORT), RequestError, "prompt"),
                (Job("vocabulary", [VOCABULARY], SHORT), RequestError, "prompt"),
                (Job("negative", [-1], SHORT), RequestError, "prompt"),
                (Job("no integer of 64 bits", [2**70], SHORT), RequestError, "prompt"),
                (Job("no integer", ["x"], SHORT), RequestError, "prompt"),  # type: ignore[list-item]
                (Job("a truth", [1, True], SHORT), RequestError, "prompt"),
                (Job("long", [1] * 512, SHORT), ContextLengthError, "prompt"),
                (Job("good", [1], SHORT), RequestError, "request_id"),
                (Job("bias", [1], SamplingParams(logit_bias={VOCABULARY: 1.0})), RequestError, "logit_bias"),
                (Job("many", [1], SamplingParams(n=9)), RequestError, "n"),
            ):
                with pytest.raises(RequestError) as caught:
                    await read(client.submit(job))
                assert (type(caught.value), caught.value.param) == (kind, param)
            gate.open()
            assert num_tokens(await read(good)) == 400
            assert client.gauges.num_restarts == 0

    asyncio.run(serve())


def test_a_prompt_over_the_channels_limit_is_refused(config: EngineConfig) -> None:
    async def serve() -> None:
        async with running(config) as client:
            with pytest.raises(RequestError, match="exceeds the channel"):
                await read(client.submit(Job("huge", [2**31] * (14 * 2**20), SHORT)))
            assert num_tokens(await read(client.submit(Job("good", [1, 2, 3], SHORT)))) == 5

    asyncio.run(serve())


def test_abort_and_stop_end_at_once_and_free_the_blocks(config: EngineConfig, gate: Gate) -> None:
    async def serve() -> None:
        async with running(config, command=gate.command) as client:
            stream = client.submit(Job("a", [1, 2, 3], ENDLESS))
            await anext(stream)
            stream.abort()
            stream.abort()
            rest = [event for events in (await read(stream)).events.values() for event in events]
            assert [event.finish for event in rest if event.token is None] == ["abort"]
            assert rest[-1].finish == "abort"
            several = client.submit(Job("b", [1, 2, 3], SamplingParams(n=3, max_tokens=40, seed=5, ignore_eos=True)))
            begun = Counter(event.index for event in await anext(several))
            several.stop(1, "the end")
            several.stop(1, "once more")
            gate.open()
            answer = await read(several)
            assert answer.events[1][-1].finish == "stop"
            assert answer.events[1][-1].stop_reason == "the end"
            assert [answer.events[index][-1].finish for index in (0, 2)] == ["length", "length"]
            assert len(answer.events[1]) < len(answer.events[0]) == 40 - begun[0]
            unread = client.submit(Job("c", [1, 2, 3], ENDLESS))
            unread.abort()
            await until(lambda: client.gauges.num_running + client.gauges.num_waiting == 0)
            assert client.gauges.num_used_blocks == 0
            stream.abort()
            stream.stop(0, "late")

    asyncio.run(serve())


def test_random_leavers_leave_no_block(config: EngineConfig) -> None:
    chance = random.Random(20261124)

    async def visit(client: EngineClient, job: Job) -> None:
        stream = client.submit(job)
        for _ in range(chance.randint(0, 30)):
            if await anext(stream, None) is None:
                return
        if chance.random() < 0.5:
            stream.abort()

    async def serve() -> None:
        async with running(config) as client:
            await asyncio.gather(*(visit(client, job) for job in make_jobs(100, seed=3)))
            await until(lambda: client.gauges.num_running + client.gauges.num_waiting == 0)
            gauges = client.gauges
            assert (gauges.num_used_blocks, gauges.num_cached_blocks + gauges.num_free_blocks) == (0, 256)

    asyncio.run(serve())


def test_a_slow_reader_holds_nobody_up(config: EngineConfig) -> None:
    async def serve() -> None:
        async with running(config) as client:
            slow = client.submit(Job("slow", [1, 2], ENDLESS))
            num_read = len(await anext(slow))
            assert num_tokens(await read(client.submit(Job("quick", [3, 4], SHORT)))) == 5
            await until(lambda: slow.is_finished)
            assert num_read + num_tokens(await read(slow)) == 400

    asyncio.run(serve())


def test_a_seed_that_nobody_gave_is_given(config: EngineConfig) -> None:
    async def serve() -> None:
        async with running(config) as client:
            free = SamplingParams(temperature=1.5, max_tokens=20, ignore_eos=True)
            streams = [client.submit(Job(name, [1, 2], free)) for name in "ab"]
            assert streams[0].job.params.seed != streams[1].job.params.seed
            answers = [await read(stream) for stream in streams]
            tokens = [[event.token for event in answer.events[0]] for answer in answers]
            assert tokens[0] != tokens[1]
            again = await read(client.submit(Job("c", [1, 2], streams[0].job.params)))
            assert [event.token for event in again.events[0]] == tokens[0]

    asyncio.run(serve())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"model": "no such model"}, ConfigError, "neither a directory"),
        ({"load_format": "dummy", "config": "no such preset"}, ConfigError, "no such preset"),
        ({"instruction_set": "no such set"}, ConfigError, "no such set"),
    ],
)
def test_what_cannot_be_loaded_is_said(options: dict[str, str], kind: type[Exception], message: str) -> None:
    async def serve() -> None:
        client = EngineClient(EngineConfig(**options))  # type: ignore[arg-type]
        early = client.submit(Job("early", [1], SHORT))
        with pytest.raises(kind, match=message):
            await client.start()
        assert client.state == "stopped"
        for stream in (early, client.submit(Job("late", [1], SHORT))):
            with pytest.raises(EngineError, match=f"could not be loaded.*{message}"):
                await read(stream)
        await client.close()

    asyncio.run(serve())


def test_a_broken_model_file_keeps_file_and_field(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(3))

    async def serve() -> ModelFileError:
        client = EngineClient(EngineConfig(model=str(broken)))
        with pytest.raises(ModelFileError) as caught:
            await client.start()
        await client.close()
        return caught.value

    error = asyncio.run(serve())
    with pytest.raises(ModelFileError) as direct:
        load_engine(EngineConfig(model=str(broken)))
    assert (str(error), error.path, error.field) == (str(direct.value), str(broken), direct.value.field)


def test_an_engine_that_cannot_be_started_is_said(config: EngineConfig) -> None:
    async def start(*command: str) -> str:
        client = EngineClient(config, command=command)
        with pytest.raises(EngineError) as caught:
            await client.start()
        await client.close()
        return str(caught.value)

    assert "could not be started" in asyncio.run(start("/no/such/program"))
    assert "status 3" in asyncio.run(start("/bin/sh", "-c", "exit 3"))


def open_files() -> set[tuple[str, str]]:
    """Numbers, and what each stands for."""
    files = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            files.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return files


def test_close_leaves_nothing(config: EngineConfig, gate: Gate) -> None:
    async def serve() -> None:
        gc.collect()  # what earlier tests left is none of ours
        base = open_files()
        tasks = asyncio.all_tasks()
        for _ in range(3):
            await live_and_die(EngineClient(config, command=gate.command))
        assert (open_files() - base, asyncio.all_tasks()) == (set(), tasks)

    asyncio.run(serve())


async def live_and_die(client: EngineClient) -> None:
    """Two engines of one client, the first one killed, the second one closed in the middle of a stream."""
    await client.start()
    first = client.engine_pid
    assert first is not None
    stream = client.submit(Job("a", [1, 2, 3], ENDLESS))
    await anext(stream)
    os.kill(first, signal.SIGKILL)
    await until(lambda: client.engine_pid != first and client.state == "ready")
    second = client.engine_pid
    await client.close()
    await client.close()
    assert client.state == "stopped"
    with pytest.raises(EngineError, match="closed"):
        await read(stream)
    with pytest.raises(EngineError, match="closed"):
        await read(client.submit(Job("b", [1, 2, 3], SHORT)))
    for pid in (first, second):
        assert not Path(f"/proc/{pid}").exists()  # not even a zombie


def test_closed_while_it_loads(config: EngineConfig) -> None:
    async def serve() -> None:
        client = EngineClient(config)
        starting = asyncio.create_task(client.start())
        waiting = client.submit(Job("a", [1], SHORT))
        await until(lambda: client.engine_pid is not None)
        pid = client.engine_pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await client.close()
        with pytest.raises(EngineError, match="could not be loaded"):
            await read(waiting)
        assert not Path(f"/proc/{pid}").exists()

    asyncio.run(serve())
