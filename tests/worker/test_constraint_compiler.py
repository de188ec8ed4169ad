"""Constraints tried out in a process that may die of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hostile_constraints import hostile_constraints

from vivace.core.config import EngineConfig
from vivace.core.errors import OverloadedError, RequestError, UnavailableError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.worker import trial
from vivace.worker.compiler import MAX_WAITING, CompilerClient
from vivace.worker.compiler_messages import Verdict
from vivace.worker.compiler_process import main

DEADLINE_S = 120.0
GOOD = StructuredOutputs("regex", "[ab]+")


class PatientClient(CompilerClient):
    """Asks again where the machine was too busy to tell: 0.9 s are soon over beside other work."""

    async def _ask(self, outputs: StructuredOutputs) -> Verdict:
        while (verdict := await super()._ask(outputs)).outcome == "late":
            pass
        return verdict


@asynccontextmanager
async def running(
    config: EngineConfig | None = None, kind: type[CompilerClient] = PatientClient
) -> AsyncIterator[CompilerClient]:
    client = kind(config or EngineConfig())
    try:
        await client.start()
        yield client
    finally:
        await client.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


async def outcome(client: CompilerClient, outputs: StructuredOutputs) -> str:
    try:
        await client.check(outputs)
    except RequestError:
        return "refused"
    except OverloadedError:
        return "late"
    return "accepted"


async def accepted(client: CompilerClient, outputs: StructuredOutputs) -> None:
    """As soon as the machine finds the time."""
    while (answer := await outcome(client, outputs)) == "late":
        pass
    assert answer == "accepted"


def test_hostile_constraints_kill_nothing() -> None:
    """Each is answered; none takes the process with it, nor the answer to the next."""

    async def scenario() -> None:
        async with running(kind=CompilerClient) as client:
            await accepted(client, GOOD)
            pid = client.pid
            answers = {name: await outcome(client, outputs) for name, outputs in hostile_constraints().items()}
            assert client.pid == pid
            await accepted(client, StructuredOutputs("regex", "still here"))
        refused = {name for name, answer in answers.items() if answer != "accepted"}
        assert refused >= {
            "reference circle", "circular allOf", "missing reference", "remote reference", "enum of objects",
            "3000 properties", "overlapping patterns", "exploding allOf", "look-around", "deep arrays", "multipleOf",
            "backreference",
        }  # fmt: skip

    run(scenario)


def test_all_at_once_are_answered() -> None:
    async def scenario() -> None:
        async with running(kind=CompilerClient) as client:
            answers = await asyncio.gather(*(outcome(client, one) for one in hostile_constraints().values()))
            assert set(answers) <= {"accepted", "refused", "late"}

    run(scenario)


def test_limits_of_time_and_memory_name_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy:
        def compile(self, _: StructuredOutputs) -> None:
            bytearray(2 * trial.MEMORY_LIMIT_BYTES)

    class Slow:
        def compile(self, _: StructuredOutputs) -> None:
            while True:
                pass

    class Waiting:
        def compile(self, _: StructuredOutputs) -> None:
            signal.pause()

    monkeypatch.setattr(trial, "WALL_LIMIT_S", DEADLINE_S)
    result = trial.Trial(Greedy(), GOOD).result()  # type: ignore[arg-type]
    assert (result.outcome, "MB" in result.message) == ("refused", True)
    result = trial.Trial(Slow(), GOOD).result()  # type: ignore[arg-type]
    assert (result.outcome, "0.2 s" in result.message) == ("refused", True)
    monkeypatch.setattr(trial, "WALL_LIMIT_S", 0.0)
    assert trial.Trial(Waiting(), GOOD).result().outcome == "late"  # type: ignore[arg-type]


def test_verdicts_are_remembered_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running() as client:
            asked: list[StructuredOutputs] = []
            ask = client._ask

            async def counted(outputs: StructuredOutputs) -> Verdict:
                asked.append(outputs)
                return await ask(outputs)

            monkeypatch.setattr(client, "_ask", counted)
            bad = StructuredOutputs("regex", "(")
            await asyncio.gather(*(outcome(client, one) for one in (GOOD, bad) * 5))
            assert await outcome(client, GOOD) == "accepted"
            assert await outcome(client, bad) == "refused"
            assert len(asked) == 2

    run(scenario)


def test_a_killed_process_is_replaced() -> None:
    async def scenario() -> None:
        async with running() as client:
            await client.check(GOOD)
            first = client.pid
            assert first is not None
            os.kill(first, signal.SIGSTOP)  # so that the question is open when it dies
            question = asyncio.create_task(client.check(StructuredOutputs("regex", "x")))
            await asyncio.sleep(0)
            os.kill(first, signal.SIGKILL)
            with pytest.raises(UnavailableError):
                await question
            await client.check(StructuredOutputs("regex", "x"))
            assert client.pid != first

    run(scenario)


def test_too_many_at_once_are_told_to_come_again() -> None:
    async def scenario() -> None:
        async with running() as client:
            checks = [outcome(client, StructuredOutputs("regex", f"a{{{n}}}")) for n in range(MAX_WAITING + 5)]
            answers = await asyncio.gather(*checks)
            assert answers.count("late") == 5
            assert answers.count("accepted") == MAX_WAITING

    run(scenario)


def test_leaving_does_not_end_it_for_others() -> None:
    async def scenario() -> None:
        async with running() as client:
            leaving = asyncio.create_task(client.check(GOOD))
            staying = asyncio.create_task(client.check(GOOD))
            await asyncio.sleep(0)
            leaving.cancel()
            await staying

    run(scenario)


def test_no_process_is_left() -> None:
    async def scenario() -> None:
        async with running() as client:
            await client.check(GOOD)
            pid = client.pid
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(scenario)


def test_a_model_without_tokenizer() -> None:
    async def scenario() -> None:
        async with running(EngineConfig(load_format="dummy", config="llama-3.2-1b")) as client:
            for outputs in (GOOD, StructuredOutputs("json_object")):
                with pytest.raises(RequestError, match="no tokenizer"):
                    await client.check(outputs)

    run(scenario)


def test_started_by_hand_it_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "vivace serve" in capsys.readouterr().err
