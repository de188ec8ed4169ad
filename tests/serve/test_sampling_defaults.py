"""Sampling defaults over HTTP: what a request leaves out comes from the model's makers, what it says wins."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from served_process import API_KEY, ServedProcess

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(advised: ServedProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{advised.base_url}/v1", api_key=API_KEY, max_retries=0) as client:
        yield client


def test_models_and_the_log_tell_the_defaults(advised: ServedProcess) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    answer = httpx.get(f"{advised.base_url}/v1/models", headers=headers, timeout=60.0).json()
    assert answer["data"][0]["default_sampling_params"] == {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 0.9,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 5,
    }
    assert "temperature 0, top_p 0.9, max_tokens 5" in advised.line_with("sampling_defaults = ")["message"]


def test_what_is_left_out_comes_from_the_defaults(client: openai.OpenAI) -> None:
    fields = {"model": "thinker", "messages": HELLO, "extra_body": {"ignore_eos": True}}
    unasked = client.chat.completions.create(**fields)
    asked = client.chat.completions.create(**fields, temperature=0, top_p=0.9, max_tokens=5)
    assert unasked.choices[0].message == asked.choices[0].message
    assert unasked.usage is not None
    assert unasked.usage.completion_tokens == 5
    answer = client.responses.create(model="thinker", input="Hello")
    assert (answer.temperature, answer.top_p) == (0.0, 0.9)


def test_what_a_request_says_wins(client: openai.OpenAI) -> None:
    fields = {"model": "thinker", "prompt": "The sea", "max_tokens": 12, "seed": 5}
    greedy = client.completions.create(**fields)
    hot = client.completions.create(**fields, temperature=8.0, extra_body={"ignore_eos": True})
    assert hot.choices[0].text != greedy.choices[0].text
    assert hot.usage is not None
    assert hot.usage.completion_tokens == 12


def test_tokens_of_reasoning_are_counted(client: openai.OpenAI) -> None:
    """The prompt opens the tags and this model never closes them: all that it says is reasoning."""
    fields = {"model": "thinker", "messages": HELLO, "n": 2, "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(**fields)
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == whole.usage.completion_tokens == 10
    *_, last = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    assert last.usage == whole.usage
    answer = client.responses.create(model="thinker", input="Hello")
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens == answer.usage.output_tokens > 0
    plain = client.completions.create(model="thinker", prompt="The", max_tokens=3)
    assert plain.usage is not None
    assert plain.usage.completion_tokens_details is not None
    assert plain.usage.completion_tokens_details.reasoning_tokens == 0
