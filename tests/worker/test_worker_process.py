"""The engine's process on its own: what it does with a hostile front, with signals, and when the front is gone."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from worker_jobs import DEADLINE_S, num_tokens, read, running, tiny_config

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.worker.channel import FrameDecoder, encode_frame
from vivace.worker.job import Job
from vivace.worker.messages import Abort, Configure, Failed, Ready, Report
from vivace.worker.supervisor import EngineClient, RestartPolicy

SHORT = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, seed=0)


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    return tiny_config(tmp_path)


def start_process() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    with theirs:
        command = [sys.executable, "-m", "vivace.worker", str(theirs.fileno())]
        return subprocess.Popen(command, pass_fds=(theirs.fileno(),)), ours


def reports_until_the_end(ours: socket.socket) -> list[Report]:
    decoder: FrameDecoder[Report] = FrameDecoder(Report)
    reports: list[Report] = []
    try:
        while data := ours.recv(65536):
            reports += decoder.feed(data)
    except ConnectionResetError:  # it left without reading all that we sent
        pass
    return reports


@pytest.mark.parametrize("is_loaded", [False, True], ids=["before the model", "with a model"])
@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "1195725856 bytes"),
        ((2**30).to_bytes(4, "big"), "1073741824 bytes"),
        (b"\x00\x00\x00\x01\xc1", "none of ours"),
        (b"\x00\x00\x00\x03\x92\x03\x05", "none of ours"),
        (bytes(4) * 1000, "none of ours"),
        (b"\x00\x00\x01\x00half", "within a message"),
    ],
)
def test_garbage_ends_it_with_a_clear_report(
    config: EngineConfig, sent: bytes, message: str, is_loaded: bool
) -> None:
    process, ours = start_process()
    with process, ours:
        decoder: FrameDecoder[Report] = FrameDecoder(Report)
        reports: list[Report] = []
        if is_loaded:
            ours.sendall(encode_frame(Configure(config)))
            while not any(isinstance(report, Ready) for report in reports):
                reports += decoder.feed(ours.recv(65536))
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        last = reports_until_the_end(ours)[-1]
        assert isinstance(last, Failed)
        assert message in last.error.message
        assert (last.error.kind, last.trace) == ("EngineError", None)
        assert process.wait(DEADLINE_S) == 1


def test_the_first_command_configures() -> None:
    process, ours = start_process()
    with process, ours:
        ours.sendall(encode_frame(Abort("x")))
        (last,) = reports_until_the_end(ours)
        assert isinstance(last, Failed)
        assert "must be Configure, not Abort" in last.error.message
        assert process.wait(DEADLINE_S) == 1


def test_a_front_that_leaves_ends_it(config: EngineConfig) -> None:
    for sent in (b"", encode_frame(Configure(config))):
        process, ours = start_process()
        with process:
            with ours:
                ours.sendall(sent)
            process.wait(DEADLINE_S)


def test_started_by_hand_it_says_who_starts_it() -> None:
    command = [sys.executable, "-m", "vivace.worker"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, "started by vivace serve" in done.stderr) == (2, True)


def test_signals_are_the_fronts_to_answer(config: EngineConfig) -> None:
    async def serve() -> None:
        async with running(config) as client:
            pid = client.engine_pid
            assert pid is not None
            assert os.getpgid(pid) != os.getpgid(0)
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            assert num_tokens(await read(client.submit(Job("a", [1], SHORT)))) == 5
            assert (client.engine_pid, client.gauges.num_restarts) == (pid, 0)

    asyncio.run(serve())


FRONT = """
import asyncio, sys
from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.worker.job import Job
from vivace.worker.supervisor import EngineClient

async def main():
    client = EngineClient(EngineConfig(load_format="dummy", config=sys.argv[1], num_kv_blocks=64, max_num_seqs=4))
    await client.start()
    stream = client.submit(Job("a", [1], SamplingParams(max_tokens=400, ignore_eos=True)))
    await anext(stream)
    print(client.engine_pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_engine_outlives_a_killed_front(config: EngineConfig) -> None:
    assert config.config is not None
    command = [sys.executable, "-c", FRONT, config.config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        pid = int(front.stdout.readline())
        engine = os.pidfd_open(pid)
        front.kill()
        assert select.select([engine], [], [], DEADLINE_S)[0], "the engine is still there"
        os.close(engine)


LIAR = """
import socket, sys
front = socket.socket(fileno=int(sys.argv[-1]))
front.recv(65536)
front.sendall(bytes.fromhex({sent!r}))
while front.recv(65536):
    pass
"""


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "1213486160 bytes"),
        ((2**30).to_bytes(4, "big"), "1073741824 bytes"),
        (b"\x00\x00\x00\x01\xc1", "none of ours"),
        (b"\x00\x00\x00\x04\x92\x11\x91\x00", "none of ours"),
    ],
)
def test_an_engine_that_talks_garbage_is_ended(config: EngineConfig, sent: bytes, message: str) -> None:
    async def serve() -> None:
        client = EngineClient(config, command=(sys.executable, "-c", LIAR.format(sent=sent.hex())))
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(EngineError, match=message):
                await client.start()
        await client.close()

    asyncio.run(serve())


LATE_LIAR = """
import sys
from vivace.worker import engine_loop
from vivace.worker.process import main
from vivace.core.events import TokenEvent

class Liar(engine_loop.EngineLoop):
    def _report(self, events, step_s):
        super()._report([TokenEvent(event.request_id, 5, event.token, None) for event in events], step_s)

from vivace.worker import process
process.EngineLoop = Liar
sys.exit(main(sys.argv[1:]))
"""


def test_reports_that_contradict_themselves_count_as_a_crash(config: EngineConfig) -> None:
    async def serve() -> None:
        policy = RestartPolicy(max_crashes=3)
        async with running(config, policy=policy, command=(sys.executable, "-c", LATE_LIAR)) as client:
            with pytest.raises(EngineError, match="could not be taken"):
                await read(client.submit(Job("a", [1], SHORT)))

    asyncio.run(serve())


def test_unknown_tags_are_errors_in_both_directions() -> None:
    payload = msgspec.msgpack.encode([99, "x"])
    with pytest.raises(EngineError, match="none of ours"):
        list(FrameDecoder(Report).feed(len(payload).to_bytes(4, "big") + payload))
