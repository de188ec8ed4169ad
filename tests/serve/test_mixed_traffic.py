"""2,000 requests of 64 clients, of which a third leave at some point: afterwards everything is as it was.

And 300 while every step verifies guesses.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canaries import gauge, num_used_blocks
from raw_http import RawConnection, request_bytes
from served_process import SMALL, ServedProcess, eventually, served

SEED = 20261122
NUM_REQUESTS = 2_000
NUM_GUESSED_REQUESTS = 300
METHODS = {
    "ngram": {},
    "draft_model": {"model": "embedded-draft"},
    "medusa": {"num_speculative_tokens": 8},
}
NUM_CLIENTS = 64
LEAVING = 0.3
WORDS = (
    *("the", "old", "man", "looked", "at", "sea", "and", "saw", "a", "ship"),
    *("that", "came", "from", "far", "away", "with", "news", "of", "king"),
)


def request_fields(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body: short and long prompts, shared beginnings, several continuations, every kind of answer."""
    prompt = "Once upon a time there was a house by the sea. " * rng.choice((0, 0, 1, 4)) + " ".join(
        rng.choices(WORDS, k=rng.randint(1, 40))
    )
    fields: dict[str, Any] = {
        "max_tokens": rng.randint(1, 24),
        "temperature": rng.choice((0, 0.8, 1.3)),
        "stream": rng.random() < 0.6,
        "n": rng.choice((1, 1, 1, 2, 3)),
    }
    if rng.random() < 0.2:
        fields["stop"] = [rng.choice(WORDS)]
    if rng.random() < 0.5:
        return "/v1/chat/completions", {**fields, "messages": [{"role": "user", "content": prompt}]}
    if rng.random() < 0.2:
        fields |= {"echo": True, "logprobs": 1}
    return "/v1/completions", {**fields, "prompt": prompt}


class Client:
    """One request on one connection; may leave after some bytes sent or received, gently or with a reset."""

    def __init__(self, server: ServedProcess, rng: random.Random) -> None:
        path, fields = request_fields(rng)
        body = json.dumps(fields).encode()
        self.port = server.port
        self.is_stream = fields["stream"]
        self.data = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.api_key}\r\n"
            f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        leaves = rng.random() < LEAVING
        self.sends = rng.randrange(len(self.data)) if leaves and rng.random() < 0.3 else len(self.data)
        self.reads = rng.choice((0, rng.randrange(1, 4_000))) if leaves else None
        self.resets = rng.random() < 0.5

    async def run(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self.data[: self.sends])
            await writer.drain()
            if self.sends < len(self.data):
                return self.leave(writer)
            if self.reads is None:
                return self.judge(await reader.read())
            if self.reads:
                await reader.read(self.reads)
            return self.leave(writer)
        finally:
            writer.close()

    def leave(self, writer: asyncio.StreamWriter) -> str:
        if self.resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return "left"

    def judge(self, answer: bytes) -> str:
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1]
        if status != b"200":
            return f"{status.decode()} {body[:200].decode()}"
        is_whole = b"data: [DONE]\n\n" in body if self.is_stream else json.loads(body)["choices"]
        return "answered" if is_whole else f"broken off: {body[-100:]!r}"


async def traffic(server: ServedProcess, num_requests: int) -> Counter[str]:
    rng = random.Random(SEED)
    clients = [Client(server, rng) for _ in range(num_requests)]
    outcomes: Counter[str] = Counter()
    waiting = iter(clients)

    async def user() -> None:
        for client in waiting:
            try:
                outcomes[await client.run()] += 1
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                outcomes[repr(error) if client.reads is None else "left"] += 1

    await asyncio.gather(*(user() for _ in range(NUM_CLIENTS)))
    return outcomes


def num_descriptors(pid: int) -> int:
    return len(os.listdir(Path(f"/proc/{pid}/fd")))


def descriptors(server: ServedProcess, engine_pid: int) -> list[int]:
    """Of both processes, with one connection open.

    It has been answered twice: what others had closed before is closed on the server's side as well.
    """
    with RawConnection(server.port) as connection:
        for _ in range(2):
            assert connection.send(request_bytes(target="/health")).answer().status == 200
        return [num_descriptors(pid) for pid in (server.pid, engine_pid)]


@pytest.fixture(scope="module")
def fresh() -> Iterator[ServedProcess]:
    """A server of its own: connections that earlier tests kept alive would close meanwhile and hide what is left."""
    with served(*SMALL) as process:
        yield process.wait_ready()


def test_afterwards_everything_is_as_it_was(fresh: ServedProcess) -> None:
    server = fresh
    pids = (server.pid, server.engine_pid)
    assert num_used_blocks(server) == 0
    before = descriptors(server, server.engine_pid)
    tasks = gauge(server, "front_num_tasks")
    outcomes = asyncio.run(traffic(server, NUM_REQUESTS))
    assert set(outcomes) == {"answered", "left"}, f"seed {SEED}: {outcomes}"
    assert outcomes["left"] > NUM_REQUESTS * LEAVING * 0.8
    assert (server.pid, server.engine_pid) == pids
    assert eventually(lambda: gauge(server, "num_requests_running") == 0)
    assert eventually(lambda: num_used_blocks(server) == 0)
    assert eventually(lambda: gauge(server, "front_num_tasks") <= tasks)
    assert eventually(lambda: descriptors(server, server.engine_pid) == before)


@pytest.mark.parametrize("method", METHODS)
def test_who_leaves_while_guesses_are_verified_leaves_nothing(method: str) -> None:
    config = {"method": method, "adaptive": False, **METHODS[method]}
    with served(*SMALL, "--speculative-config", json.dumps(config)) as process:
        server = process.wait_ready()
        engine_pid = server.engine_pid
        outcomes = asyncio.run(traffic(server, NUM_GUESSED_REQUESTS))
        assert set(outcomes) == {"answered", "left"}, f"seed {SEED}: {outcomes}"
        assert outcomes["left"] > NUM_GUESSED_REQUESTS * LEAVING * 0.7
        assert server.engine_pid == engine_pid
        assert eventually(lambda: gauge(server, "spec_decode_num_drafts_total") > 0)
        assert eventually(lambda: gauge(server, "num_requests_running") == 0)
        assert eventually(lambda: num_used_blocks(server) == 0)
