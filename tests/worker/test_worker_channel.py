"""Frames: whatever comes, whole messages or a clear error."""

from __future__ import annotations

import pickle
import random
from typing import Any

import msgspec
import pytest
from worker_jobs import make_jobs

from vivace.core.account import RequestAccount
from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError
from vivace.core.events import TokenEvent, TokenLogprobs
from vivace.core.history import Chunk, Preemption, PrefixMiss
from vivace.core.sampling import SamplingParams
from vivace.schedule.block_map import BlockMap
from vivace.worker.channel import MAX_FRAME_BYTES, FrameDecoder, encode_frame
from vivace.worker.info import EngineGauges
from vivace.worker.job import Job
from vivace.worker.messages import (
    Abort,
    Command,
    Configure,
    Ended,
    ErrorData,
    Explain,
    Explained,
    Failed,
    PromptScores,
    Refused,
    Report,
    Started,
    Step,
    Stop,
    Submit,
    Survey,
    Surveyed,
)

SEED = 20261126
INFINITE = TokenLogprobs(3, float("-inf"), 5, (1, 2), (-0.1, float("-inf")))
ACCOUNT = RequestAccount(
    *(1.0, 20, 3, 16),
    miss=PrefixMiss(1, "different", 17),
    chunks=[Chunk(16, 4, 9, 1.5)],
    preemptions=[Preemption(2, 18, True)],
    obstacles={"rows": 3},
)
COMMANDS: list[Command] = [
    Configure(EngineConfig(model="x", seed=9)),
    *(Submit(job) for job in make_jobs(6, seed=SEED)),
    Submit(Job("é\n", [1], SamplingParams(seed=2**64 - 1), cache_salt=b"\xff\x00"), [[1, 2], None, []]),
    Abort("x"),
    Stop("x", 1, "end"),
    Survey(),
    Explain("x"),
]
REPORTS: list[Report] = [
    Step(
        [
            TokenEvent("x", 0, 5, None),
            TokenEvent("x", 1, 2**31 - 1, INFINITE, "stop", 7),
            TokenEvent("y", 0, None, None, "stop", "text"),
        ],
        [Started("x", 1.5, 1e-300, 3)],
        [Ended("x", 0.1 + 0.2, 2)],
        EngineGauges(1, 2, 3, last_step_s=0.25),
    ),
    Failed(ErrorData("ModelFileError", "broken", path="p", offset=3)),
    Refused("x", ErrorData("RequestError", "no", param="n")),
    PromptScores("x", [None, INFINITE]),
    Surveyed(BlockMap(3, 2, b"\xff\0\0\0\0\xff\0\0")),
    Explained("x", None),
    Explained("y", ACCOUNT),
]


def in_pieces(data: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(0, 40)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize(("kind", "messages"), [(Command, COMMANDS), (Report, REPORTS)], ids=["command", "report"])
def test_messages_arrive_whole_however_they_are_cut(kind: Any, messages: list[Any]) -> None:
    chance = random.Random(SEED)
    data = b"".join(encode_frame(message) for message in messages)
    for _ in range(50):
        decoder: FrameDecoder[Any] = FrameDecoder(kind)
        received = [message for piece in in_pieces(data, chance) for message in decoder.feed(piece)]
        assert received == messages
        assert decoder.is_between_frames
    decoder = FrameDecoder(kind)
    assert list(decoder.feed(data[:-1])) == messages[:-1]
    assert not decoder.is_between_frames


def test_too_long_is_refused_on_both_sides() -> None:
    with pytest.raises(EngineError, match=r"Abort message of .* exceeds"):
        encode_frame(Abort("x" * 100), limit=99)
    frame = encode_frame(Abort("x" * 90), limit=99)
    with pytest.raises(EngineError, match="limit is 20"):
        list(FrameDecoder(Command, limit=20).feed(frame))
    for announced in (MAX_FRAME_BYTES + 1, 2**30, 2**32 - 1):
        with pytest.raises(EngineError, match=f"{announced} bytes"):  # from the length alone: nothing is gathered
            list(FrameDecoder(Command).feed(announced.to_bytes(4, "big")))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x91\x63",
        b"\x92\x03\x05",
        b"\x80",
        b"\x92\x03\xa1\xff",
        b"\x93\x02\x01\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        msgspec.msgpack.encode([2, {"request_id": "x"}]),
        msgspec.msgpack.encode([2, {"request_id": "x", "prompt": [1], "params": {"n": 10**6}}]),
        msgspec.msgpack.encode([1, {"block_size": -1}]),
        pickle.dumps(Abort("x")),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_message_is_an_error(payload: bytes) -> None:
    for kind in (Command, Report):
        with pytest.raises(EngineError, match="none of ours"):
            list(FrameDecoder(kind).feed(len(payload).to_bytes(4, "big") + payload))


@pytest.mark.parametrize(("kind", "messages"), [(Command, COMMANDS), (Report, REPORTS)], ids=["command", "report"])
def test_damaged_frames_are_errors_or_other_messages(kind: Any, messages: list[Any]) -> None:
    chance = random.Random(SEED)
    frames = [bytes(encode_frame(message)) for message in messages]
    types = tuple(type(message) for message in messages)
    num_errors = 0
    for _ in range(3000):
        data = bytearray(chance.choice(frames))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        try:
            received = list(FrameDecoder(kind).feed(bytes(data)))
        except EngineError:
            num_errors += 1
        else:
            assert len(received) == 1
            assert isinstance(received[0], types) or kind is Report
    assert num_errors > 1000
