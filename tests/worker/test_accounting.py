"""Accounts of requests: with the engine's end, after an end of the front's own, and while they run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gate import Gate
from worker_jobs import DEADLINE_S, read, running, tiny_config, until

from vivace.core.account import RequestAccount
from vivace.core.sampling import SamplingParams
from vivace.worker import accounting
from vivace.worker.accounting import MAX_ASKED, Accounting
from vivace.worker.job import Job

LONG = SamplingParams(max_tokens=400, seed=1, ignore_eos=True)


def test_accounts_come_with_the_end_and_after_a_stop(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tiny_config(tmp_path), command=Gate(tmp_path).command) as client:
            accounts: list[RequestAccount] = []
            whole = client.submit(
                Job("whole", list(range(40)), SamplingParams(max_tokens=5, seed=1, ignore_eos=True))
            )
            whole.when_accounted = accounts.append
            await read(whole)
            assert [(one.num_prompt, one.num_output, one.num_chunks, one.num_steps) for one in accounts] == [
                (40, 5, 1, 5)
            ]
            stopped = client.submit(Job("stopped", [1, 2, 3], LONG))
            stopped.when_accounted = accounts.append
            await anext(stopped)
            stopped.stop(0, "found")
            await until(lambda: len(accounts) == 2)
            assert accounts[1].finished is not None
            assert accounts[1].miss is not None
            assert accounts[1].miss.reason == "short"

    asyncio.run(main())


def test_a_running_request_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "PATIENCE_S", DEADLINE_S)

    async def main() -> None:
        async with running(tiny_config(tmp_path), command=Gate(tmp_path).command) as client:
            stream = client.submit(Job("long", [1, 2, 3], LONG))
            await anext(stream)
            found = await asyncio.gather(*(client.account("long") for _ in range(5)))
            assert all(one is not None and one.finished is None and one.num_output > 0 for one in found)
            assert await client.account("nobody") is None
            stream.abort()
            assert await client.account("long") is None

    asyncio.run(main())


def test_open_questions_are_bounded_and_end_with_the_engine() -> None:
    async def main() -> None:
        accounting, sent = Accounting(), 0

        def send() -> None:
            nonlocal sent
            sent += 1

        asked = [asyncio.create_task(accounting.ask(str(number), send)) for number in range(MAX_ASKED)]
        await asyncio.sleep(0)
        assert await accounting.ask("one more", send) is None
        assert sent == MAX_ASKED
        accounting.forget()
        assert await asyncio.gather(*asked) == [None] * MAX_ASKED

    asyncio.run(main())
