"""A load that hangs ends with a reason; one that gets on is left alone."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from worker_jobs import DEADLINE_S, tiny_config

from vivace.core.errors import EngineError
from vivace.worker.load_watch import STEP_BYTES, LoadWatch, written_bytes
from vivace.worker.supervisor import EngineClient, RestartPolicy

HUNG = (sys.executable, "-c", "import threading; threading.Event().wait()")


class Scene:
    """A clock and a process that are moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.num_written: int | None = 0
        self.watch = LoadWatch(80.0, lambda: self.num_written, lambda: self.now)

    def after(self, seconds: float, last_heard: float = 1000.0) -> bool:
        self.now += seconds
        return self.watch.is_still(last_heard)


def test_silence_beyond_the_patience() -> None:
    scene = Scene()
    assert [scene.after(10.0) for _ in range(9)] == [False] * 8 + [True]


def test_a_report_is_a_sign_of_life() -> None:
    scene = Scene()
    assert not any(scene.after(10.0, last_heard=scene.now) for _ in range(30))


def test_writing_is_a_sign_of_life_but_not_a_line_of_a_log() -> None:
    for size, is_still in ((STEP_BYTES, False), (100, True)):
        scene = Scene()
        for _ in range(30):
            assert scene.num_written is not None
            scene.num_written += size
            seen = scene.after(10.0)
        assert seen is is_still


def test_where_the_system_does_not_tell_reports_alone_count() -> None:
    scene = Scene()
    scene.num_written = None
    assert [scene.after(10.0) for _ in range(9)][-1]


def test_a_front_that_was_asleep_waits_anew() -> None:
    scene = Scene()
    assert not scene.after(10_000.0)
    assert [scene.after(10.0) for _ in range(9)][-1]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_written_bytes_are_counted(tmp_path: Path) -> None:
    before = written_bytes(os.getpid())
    (tmp_path / "file").write_bytes(bytes(STEP_BYTES))
    after = written_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before >= STEP_BYTES
    assert written_bytes(2**30) is None


def test_a_hung_load_ends_with_a_reason(tmp_path: Path) -> None:
    async def work() -> None:
        client = EngineClient(tiny_config(tmp_path), policy=RestartPolicy(load_timeout_s=0.5), command=HUNG)
        with pytest.raises(EngineError, match=r"stood still for 0\.5 s: no parameter was packed.*--load-timeout-s"):
            await client.start()
        assert client.state == "stopped"
        await client.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))
