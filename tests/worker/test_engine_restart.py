"""The engine's process dies; its streams do not notice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from gate import Gate
from worker_jobs import Answer, make_jobs, num_tokens, read, running, tiny_config, undisturbed, until

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.worker.job import Job
from vivace.worker.supervisor import EngineClient, RestartPolicy

SEED = 20261125
SHORT = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, seed=0)


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    """Few rows and few blocks: of 16 requests some run, some wait, some are preempted."""
    return tiny_config(tmp_path, num_kv_blocks=24, max_model_len=160)


def kill(client: EngineClient) -> None:
    assert client.engine_pid is not None
    os.kill(client.engine_pid, signal.SIGKILL)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def halt(client: EngineClient) -> None:
    """Let the engine stand still; it does when this returns."""
    assert client.engine_pid is not None
    os.kill(client.engine_pid, signal.SIGSTOP)
    os.waitid(os.P_PID, client.engine_pid, os.WSTOPPED)


def test_killed_ten_times_at_random_with_16_streams_each(config: EngineConfig) -> None:
    """Each of the ten rounds: 16 new streams, one kill at a random moment from before the first token to the last.

    The next round begins when the death is seen: what was sent into a dying engine would be a suspect of two deaths.
    From the second round on the engine has told of all 16 when it is killed, so that its prompts can be counted.
    """
    chance = random.Random(SEED)
    rounds = [make_jobs(16, seed=SEED + number) for number in range(10)]
    totals = [sum(num_tokens(answer) for answer in undisturbed(config, jobs).values()) for jobs in rounds]

    async def one_round(client: EngineClient, jobs: list[Job], tokens_until_kill: int) -> dict[str, Answer]:
        seen, number = 0, client.gauges.num_restarts
        num_told = client.gauges.num_prompt_tokens + sum(len(job.prompt) for job in jobs)
        is_alive = tokens_until_kill > 0

        def count(events: list[object]) -> None:
            nonlocal seen, is_alive
            seen += len(events)
            if is_alive and seen >= tokens_until_kill and client.gauges.num_prompt_tokens == num_told:
                kill(client)
                is_alive = False

        if not is_alive:
            halt(client)
        readings = [asyncio.create_task(read(client.submit(job), count)) for job in jobs]
        if not is_alive:
            kill(client)
        answers = await asyncio.gather(*readings)
        await until(lambda: client.gauges.num_restarts == number + 1)
        return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    async def serve() -> list[dict[str, Answer]]:
        async with running(config) as client:
            kills = [0, *(chance.randint(1, total - 20) for total in totals[1:])]
            served = [await one_round(client, jobs, when) for jobs, when in zip(rounds, kills, strict=True)]
            await until(lambda: client.state == "ready")
            gauges = client.gauges
            assert gauges.num_restarts == 10
            assert gauges.num_used_blocks == 0
            counted = [sum(len(job.prompt) for job in jobs) for jobs in rounds]
            assert gauges.num_prompt_tokens == sum(counted[1:])  # the first engine died before it told of any
            return served

    served = asyncio.run(serve())
    assert served == [undisturbed(config, jobs) for jobs in rounds]


def test_the_same_streams_survive_many_kills(config: EngineConfig) -> None:
    """Killed again and again; each stream has come further in between, so none of them is to blame.

    The engine does not wait for its readers: all may be said before the third kill on a machine that is busy
    with other things. Such a batch is asked for once more, until five kills have met streams under way.
    """
    chance = random.Random(SEED)
    jobs = [
        replace(job, params=replace(job.params, max_tokens=60, min_tokens=50))
        for job in make_jobs(6, seed=SEED, max_tokens=60)
    ]

    async def serve_once(client: EngineClient, num_kills: int) -> tuple[dict[str, Answer], int]:
        """The answers, and how many kills there have been since the first batch."""
        streams = [client.submit(job) for job in jobs]
        readings = [asyncio.create_task(read(stream)) for stream in streams]

        def progress() -> list[int | None]:
            """Tokens of each continuation; None for those that have ended."""
            return [None if tokens is None else len(tokens) for stream in streams for tokens in stream.emitted]

        def have_come_further(before: list[int | None], margin: int) -> bool:
            return all(
                then is None or now is None or now >= then + margin
                for now, then in zip(progress(), before, strict=True)
            )

        while num_kills < 5:
            before, margin = progress(), chance.randint(1, 6)
            await until(lambda before=before, margin=margin: have_come_further(before, margin))  # type: ignore[misc]
            if all(stream.is_finished for stream in streams):
                break
            kill(client)
            num_kills += 1
            await until(lambda count=num_kills: client.gauges.num_restarts == count)  # type: ignore[misc]
        answers = await asyncio.gather(*readings)
        return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}, num_kills

    async def serve() -> list[dict[str, Answer]]:
        async with running(config) as client:
            served, num_kills = [], 0
            while num_kills < 5:
                answers, num_kills = await serve_once(client, num_kills)
                served.append(answers)
            return served

    expected = undisturbed(config, jobs)
    served = asyncio.run(serve())
    assert served == [expected] * len(served)


def test_what_comes_while_it_restarts_waits_and_can_leave(config: EngineConfig) -> None:
    jobs = make_jobs(6, seed=SEED)

    async def serve() -> dict[str, Answer]:
        async with running(config) as client:
            kill(client)
            await until(lambda: client.state == "restarting")
            leaver = client.submit(Job("leaver", [1, 2], SHORT))
            readings = [asyncio.create_task(read(client.submit(job))) for job in jobs]
            assert client.gauges.num_waiting == 7
            leaver.abort()
            assert (await read(leaver)).events[0][-1].finish == "abort"
            answers = await asyncio.gather(*readings)
            return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    assert asyncio.run(serve()) == undisturbed(config, jobs)


def test_stopped_continuations_stay_stopped(config: EngineConfig, gate: Gate) -> None:
    job = Job("a", [1, 2, 3], SamplingParams(n=3, max_tokens=30, seed=3, ignore_eos=True))

    async def serve() -> Answer:
        async with running(config, command=gate.command) as client:
            stream = client.submit(job)
            answer, is_stopped = Answer(), False
            async for events in stream:
                answer.add(events)
                if not is_stopped and len(answer.events[0]) >= 3:
                    stream.stop(1, "found")
                    kill(client)
                    gate.open()
                    is_stopped = True
            return answer

    answer, expected = asyncio.run(serve()), undisturbed(config, [job])["a"]
    assert answer.events[0] == expected.events[0]
    assert answer.events[2] == expected.events[2]
    assert answer.events[1][:-1] == expected.events[1][: len(answer.events[1]) - 1]
    assert answer.events[1][-1].stop_reason == "found"


def test_a_static_batch_gathers_and_goes_on(config: EngineConfig, gate: Gate) -> None:
    """While it gathers, the engine has work but no step to run."""
    static = replace(config, batching="static", static_batch_size=6, static_batch_timeout_ms=100.0)
    jobs = make_jobs(7, seed=SEED)

    async def serve() -> dict[str, Answer]:
        async with running(static, command=gate.command) as client:
            streams = [client.submit(job) for job in jobs]
            readings = [asyncio.create_task(read(stream)) for stream in streams]
            await until(lambda: any(stream.emitted[0] for stream in streams))
            kill(client)
            gate.open()
            answers = await asyncio.gather(*readings)
            return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    assert asyncio.run(serve()) == undisturbed(static, jobs)


def test_decisions_of_the_first_start_are_kept(config: EngineConfig) -> None:
    """The free memory may be another one at a restart; context and pool must not be."""
    free = replace(config, num_kv_blocks=None, max_model_len=None, kv_cache_memory_bytes=2**22)

    async def serve() -> None:
        async with running(free) as client:
            info = client.info
            kill(client)
            assert num_tokens(await read(client.submit(Job("a", [1], SHORT)))) == 5
            gauges = client.gauges
            assert gauges.num_cached_blocks + gauges.num_free_blocks == info.num_kv_blocks

    asyncio.run(serve())


def test_a_crash_loop_ends_with_an_error_for_all(config: EngineConfig) -> None:
    async def serve() -> None:
        policy = RestartPolicy(max_crashes=3, crash_window_s=3600.0)  # however long a start takes here
        async with running(config, policy=policy) as client:
            for number in range(3):
                await until(lambda: client.state == "ready")
                kill(client)
                await until(lambda number=number: client.gauges.num_restarts == number + 1)  # type: ignore[misc]
            with pytest.raises(EngineError, match="3 times in a row"):
                await read(client.submit(Job("late", [1], SHORT)))
            assert client.state == "stopped"

    asyncio.run(serve())


def test_a_model_that_is_gone_ends_the_restarts(config: EngineConfig, gate: Gate) -> None:
    async def serve() -> None:
        async with running(config, command=gate.command) as client:
            stream = client.submit(Job("a", [1], replace(SHORT, max_tokens=100)))
            await anext(stream)
            assert config.config is not None
            Path(config.config).unlink()
            kill(client)
            with pytest.raises(EngineError, match=r"cannot be started again: .*json"):
                await read(stream)
            assert client.state == "stopped"

    asyncio.run(serve())
