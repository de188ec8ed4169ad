"""`kill -9` of the engine under running streams: nobody's request fails, nobody's text changes."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import httpx
import pytest
from canaries import gauge, num_used_blocks
from served_process import SMALL, ServedProcess, eventually, served

SEED = 9
NUM_KILLS = 10
NUM_STREAMS = 16
MAX_TOKENS = 96


@pytest.fixture(scope="module")
def victim() -> Iterator[ServedProcess]:
    """A server of its own: others count their engine's deaths."""
    with served(*SMALL) as process:
        yield process.wait_ready()


def fields_of(number: int) -> dict[str, Any]:
    """Greedy and drawn, one continuation and several, penalties and log probabilities."""
    return {
        "prompt": "The old man and the sea. " * (number % 4) + f"Chapter {number}: the",
        "max_tokens": MAX_TOKENS,
        "ignore_eos": True,
        "stream": True,
        "seed": number,
        "temperature": 0 if number % 3 == 0 else 0.9,
        "n": 2 if number % 5 == 0 else 1,
        "logprobs": 2 if number % 4 == 0 else None,
        "frequency_penalty": 0.5 if number % 7 == 0 else 0,
    }


def pieces(client: httpx.Client, number: int, on_text: Any = lambda _: None) -> list[Any]:
    """The stream, joined by continuation: texts, finish reasons and log probabilities."""
    answer: dict[int, list[Any]] = {}
    with client.stream("POST", "/v1/completions", json=fields_of(number)) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            for choice in json.loads(line[6:])["choices"]:
                on_text(choice["text"])
                text, scores, reasons = answer.setdefault(choice["index"], ["", [], []])
                logprobs = choice["logprobs"] or {"token_logprobs": []}
                reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
                answer[choice["index"]] = [text + choice["text"], scores + logprobs["token_logprobs"], reasons]
    return [answer[index] for index in sorted(answer)]


def streams_under_a_kill(client: httpx.Client, server: ServedProcess, num_chars: int) -> list[Any]:
    """All streams at once; the engine is killed when they have seen `num_chars` characters together.

    Not chunks: a reader who falls behind gets several tokens in one.
    """
    together, reached = Barrier(NUM_STREAMS), Event()
    seen: list[str] = []

    def count(text: str) -> None:
        seen.extend(text)
        if len(seen) >= num_chars:
            reached.set()

    def one(number: int) -> list[Any]:
        together.wait(120)
        return pieces(client, number, count)

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        futures = [pool.submit(one, number) for number in range(NUM_STREAMS)]
        assert reached.wait(120)
        os.kill(server.engine_pid, signal.SIGKILL)
        return [future.result(240) for future in futures]


def test_streams_go_on_to_the_bit(victim: ServedProcess) -> None:
    rng = random.Random(SEED)
    headers = {"Authorization": f"Bearer {victim.api_key}"}
    limits = httpx.Limits(max_connections=NUM_STREAMS)
    with httpx.Client(base_url=victim.base_url, headers=headers, timeout=240, limits=limits) as client:
        undisturbed = [pieces(client, number) for number in range(NUM_STREAMS)]
        for round_number in range(1, NUM_KILLS + 1):
            num_chars = rng.randrange(1, NUM_STREAMS * MAX_TOKENS)  # a token has two or three
            answers = streams_under_a_kill(client, victim, num_chars)
            assert answers == undisturbed, f"seed {SEED}, round {round_number}"
            # the last kill of a round may have come when every text was there: then nobody waits for the next engine
            assert eventually(lambda expected=round_number: gauge(victim, "engine_restarts_total") == expected)
            assert victim.engine_pid
    assert eventually(lambda: num_used_blocks(victim) == 0)
