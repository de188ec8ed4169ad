"""The largest bodies that are let in, on the routes that only encode or embed: others do not notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from canaries import singing
from served_process import ServedProcess

MIB = 1 << 20
LARGEST = 4 * MIB - 64  # the bytes of a body, less its keys
TEXTS: dict[str, Callable[[], str]] = {
    "words": lambda: "sea " * (LARGEST // 4),
    "one word": lambda: "a" * LARGEST,
    "blanks": lambda: " " * LARGEST,
    "line ends": lambda: "\\n" * (LARGEST // 4),
    "emoji": lambda: "🌊" * (LARGEST // 12),
    "digits": lambda: "0123456789" * (LARGEST // 10),
    "combining marks": lambda: "é" * (LARGEST // 12),
}
OTHERS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "a long list of ids": ("/v1/embeddings", lambda: {"input": [7] * (MIB // 4)}),
    "long inputs": ("/v1/embeddings", lambda: {"input": ["sea " * 400] * 64}),
    "many short inputs": ("/v1/embeddings", lambda: {"input": ["a"] * 2048}),
    "too many inputs": ("/v1/embeddings", lambda: {"input": ["a"] * MIB}),
}
CODES = {200: None, 400: ("context_length_exceeded", "invalid_value"), 413: ("body_too_large",)}
REFUSED = {"a long list of ids"}


@pytest.fixture(scope="module")
def answers(server: ServedProcess) -> dict[str, httpx.Response]:
    """All of them, one after the other, while canaries sing."""
    headers = {"Authorization": f"Bearer {server.api_key}"}
    bodies = {name: ("/tokenize", lambda text=text: {"prompt": text()}) for name, text in TEXTS.items()} | OTHERS

    def post(name: str) -> httpx.Response:
        path, body = bodies[name]
        return httpx.post(server.base_url + path, json=body(), headers=headers, timeout=300.0)

    with singing(server):
        return {name: post(name) for name in bodies}


@pytest.mark.parametrize("name", [*TEXTS, *OTHERS])
def test_answered_as_it_should_be(answers: dict[str, httpx.Response], name: str) -> None:
    answer = answers[name]
    assert answer.status_code in CODES, answer.text[:500]
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] in (CODES[answer.status_code] or ())
    assert (answer.status_code == 400) is (name in TEXTS or name in REFUSED)


@pytest.mark.parametrize("count", [MIB, MIB + 1])
def test_as_many_token_ids_as_detokenize_takes(server: ServedProcess, count: int) -> None:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    answer = httpx.post(server.base_url + "/detokenize", json={"tokens": [7] * count}, headers=headers, timeout=300.0)
    assert answer.status_code == (200 if count == MIB else 400)
