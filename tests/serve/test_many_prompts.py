"""A completions request with more prompts than the engine has rows."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from served_process import SMALL, ServedProcess, served

NUM_PROMPTS = 40
PARAMS = {"model": "vivace-embedded", "max_tokens": 4, "temperature": 0.0, "extra_body": {"ignore_eos": True}}
PROMPTS = [f"Chapter {number}. The old man" for number in range(NUM_PROMPTS)]


@pytest.fixture(scope="module")
def server() -> Iterator[ServedProcess]:
    with served(*SMALL, "--max-num-seqs", "4") as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def client(server: ServedProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=server.api_key, max_retries=0)


@pytest.fixture(scope="module")
def expected(client: openai.OpenAI) -> list[str]:
    return [client.completions.create(prompt=prompt, **PARAMS).choices[0].text for prompt in PROMPTS]


@pytest.mark.parametrize("n", [1, 3])
def test_whole(client: openai.OpenAI, expected: list[str], n: int) -> None:
    answer = client.completions.create(prompt=PROMPTS, n=n, **PARAMS)
    assert [choice.text for choice in answer.choices] == [text for text in expected for _ in range(n)]


@pytest.mark.parametrize("n", [1, 3])
def test_streamed(client: openai.OpenAI, expected: list[str], n: int) -> None:
    texts = [""] * (NUM_PROMPTS * n)
    for chunk in client.completions.create(prompt=PROMPTS, n=n, stream=True, **PARAMS):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [text for text in expected for _ in range(n)]


def test_one_bad_prompt_refuses_all_before_a_stream_begins(client: openai.OpenAI) -> None:
    prompts = [[5, 6]] * NUM_PROMPTS + [[5] * 5000]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(prompt=prompts, stream=True, **PARAMS)
    assert caught.value.code == "context_length_exceeded"
