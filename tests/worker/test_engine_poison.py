"""One request that ends, breaks or hangs the engine: it gets an error after two crashes, the others get answers."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

import pytest
import troubled_engine
from worker_jobs import Answer, make_jobs, num_tokens, read, running, tiny_config, undisturbed, until

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.worker import supervisor
from vivace.worker.job import Job
from vivace.worker.supervisor import EngineClient, RestartPolicy

POLICY = RestartPolicy(hang_timeout_s=1.0)
LONG = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True, seed=0)


class SilenceClock:
    """`time` as the supervisor sees it: nobody has been silent, but for an engine that says that it hangs.

    An engine that a busy machine keeps from running for a second is not to blame.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.client: EngineClient | None = None

    def monotonic(self) -> float:
        child = None if self.client is None else self.client._child
        if child is None or (self._folder / str(child.pid)).exists():
            return time.monotonic()
        return child.last_heard


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    return tiny_config(tmp_path)


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    return (sys.executable, troubled_engine.__file__, str(tmp_path))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SilenceClock:
    clock = SilenceClock(tmp_path)
    monkeypatch.setattr(supervisor, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (troubled_engine.DIE, "SIGSEGV"),
        (troubled_engine.RAISE, "a bug in a step"),
        (troubled_engine.HANG, "no sign of life"),
        (troubled_engine.DIE_AT_5, "SIGSEGV"),
    ],
)
def test_the_guilty_one_alone_is_ended(
    config: EngineConfig,
    command: tuple[str, ...],
    clock: SilenceClock,
    trouble: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = make_jobs(8, seed=5)

    async def serve() -> dict[str, Answer]:
        async with running(config, policy=POLICY, command=command) as client:
            clock.client = client
            streams = [client.submit(job) for job in jobs]
            poison = client.submit(Job("poison", [trouble, 1], LONG))
            later = make_jobs(2, seed=6)
            readings = [asyncio.create_task(read(stream)) for stream in streams]
            with pytest.raises(EngineError, match=f"twice.*{reason}"):
                await read(poison)
            assert client.gauges.num_restarts == 2
            for job in later:
                fresh = Job(f"later-{job.request_id}", job.prompt, job.params)
                assert num_tokens(await read(client.submit(fresh))) > 0
            answers = await asyncio.gather(*readings)
            return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(serve()) == undisturbed(config, jobs)
    assert "'poison' was in the engine both times" in caplog.text
    assert ("ZeroDivisionError" in caplog.text) == (trouble == troubled_engine.RAISE)


def test_many_poisons_do_not_stop_the_server(config: EngineConfig, command: tuple[str, ...]) -> None:
    """Seven in a row, and none of them counts as a crash loop, because each crash has its guilty one."""
    jobs = make_jobs(3, seed=5)

    async def serve() -> dict[str, Answer]:
        async with running(config, command=command) as client:
            poisons = [
                asyncio.create_task(read(client.submit(Job(f"poison-{number}", [troubled_engine.DIE], LONG))))
                for number in range(7)
            ]
            answers = await asyncio.gather(*(read(client.submit(job)) for job in jobs))
            for poison in poisons:
                with pytest.raises(EngineError, match="twice"):
                    await poison
            return {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}

    assert asyncio.run(serve()) == undisturbed(config, jobs)


def test_a_hanging_suspect_that_leaves_harms_nobody(
    config: EngineConfig, command: tuple[str, ...], clock: SilenceClock
) -> None:
    """Its reader leaves while it is on trial; the engine hangs on, is ended, and the one behind it is innocent."""

    async def serve() -> None:
        async with running(config, policy=POLICY, command=command) as client:
            clock.client = client
            hanging = client.submit(Job("hanging", [troubled_engine.HANG], LONG))
            other = client.submit(Job("other", [1, 2], LONG))
            await until(lambda: client.gauges.num_restarts == 1 and client.state == "ready")
            hanging.abort()
            assert num_tokens(await read(other)) == 30
            assert (await read(hanging)).events[0][-1].finish == "abort"

    asyncio.run(serve())


def test_logits_that_are_not_finite_end_their_request_only(config: EngineConfig, command: tuple[str, ...]) -> None:
    async def serve() -> None:
        async with running(config, command=command) as client:
            sick = client.submit(Job("sick", [troubled_engine.NOT_FINITE], LONG))
            well = client.submit(Job("well", [1], LONG))
            answer = await read(sick)
            assert (num_tokens(answer), answer.events[0][-1].finish) == (3, "error")
            assert num_tokens(await read(well)) == 30
            assert client.gauges.num_restarts == 0

    asyncio.run(serve())
