"""Parameters beside canaries: a bad value is a 400 that names it, an odd one has a defined result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from served_process import ServedProcess

from vivace.core.sampling import MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_N, MAX_STOP_STRINGS

pytestmark = pytest.mark.usefixtures("canaries")

VOCAB_SIZE = 4096  # of the embedded model
MAX_MODEL_LEN = 1024


@pytest.fixture(scope="module")
def client(server: ServedProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, timeout=120.0) as client:
        yield client


def complete(client: httpx.Client, **fields: Any) -> httpx.Response:
    return post(client, "/v1/completions", {"prompt": "The sea", "max_tokens": 4, **fields})


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    return post(client, "/v1/chat/completions", {"messages": messages, "max_tokens": 4, **fields})


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def assert_refused(response: httpx.Response, param: str, code: str = "invalid_value") -> None:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert error["param"] is not None
    assert error["param"].split("[")[0].split(".")[0] == param, error
    assert error["message"]


COUNTS = [0, -1, MAX_N + 1, 10**6, 2**63, 2**100, 1.5, "2", True, [], {}]
SHARED: list[tuple[str, Any]] = [
    *(("n", value) for value in COUNTS),
    *(("logit_bias", {key: 1}) for key in ("-1", "foo", "", str(VOCAB_SIZE), "99999999999", "1.0")),
    *(("logit_bias", {"1": value}) for value in (101, -101, "1", None, 10**400)),
    ("logit_bias", {str(token): 1 for token in range(MAX_LOGIT_BIAS + 1)}),
    ("logit_bias", []),
    *(("temperature", value) for value in (-1, 100.5, 999_999, "1", True)),
    *(("top_p", value) for value in (-1, 0, 2, 1.0001, "1")),
    *(("top_k", value) for value in (-2, 0.01, 2**31, "1")),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("repetition_penalty", value) for value in (0, -1, 10**9)),
    *(("presence_penalty", value) for value in (-2.1, 2.1, 10**9)),
    *(("frequency_penalty", value) for value in (-2.1, 2.1, 10**9)),
    *(("min_tokens", value) for value in (-1, 5, 2**31)),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", ["x"] * (MAX_STOP_STRINGS + 1)),
    ("stop", [str(number) for number in range(10**5)]),
    ("stop", "x" * 10**6),
    ("stop", [1]),
    ("stop", {"a": 1}),
    *(("stop_token_ids", [value]) for value in (-1, VOCAB_SIZE, 2**31, "1")),
    *(("seed", value) for value in (2**64, -(2**64), 1.5, "1")),
    *(("timeout", value) for value in (0, -1, "1", 10**9)),
    *(("prompt_logprobs", value) for value in (-1, MAX_LOGPROBS + 1)),
    *(("priority", value) for value in (2**31, "high")),
    ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
    ("stream_options", {"unknown": 1}),
    ("store", True),
    ("service_tier", "flex"),
    ("guided_decoding_backend", "x"),
    ("temprature", 1.0),
    ("chat_template", "{{ 1 }}"),
]


@pytest.mark.parametrize(("name", "value"), SHARED)
def test_shared_parameters_are_refused_by_name(client: httpx.Client, name: str, value: Any) -> None:
    assert_refused(complete(client, **{name: value}), name)
    assert_refused(chat(client, **{name: value}), name)


COMPLETION: list[tuple[str, Any]] = [
    *(("logprobs", value) for value in (-1, 21, 10**6, "5", True, 1.5)),
    *(("max_tokens", value) for value in (-1, 2**31, 1.5, "4", True)),
    *(("best_of", value) for value in (2, 10**6, 2**63)),
    ("suffix", "the end"),
    *(
        ("prompt", value)
        for value in ("", [], [[]], [[], [1]], ["", "a"], [1, "a"], [[1], "a"], [["a"]], None, 5, {})
    ),
    *(("prompt", [value]) for value in (-1, VOCAB_SIZE, 2**31, 2**63, 2**100, 1.5, True, None)),
    ("prompt", ["a"] * 129),
    ("messages", []),
    ("tools", []),
]


@pytest.mark.parametrize(("name", "value"), COMPLETION)
def test_completion_parameters_are_refused_by_name(client: httpx.Client, name: str, value: Any) -> None:
    assert_refused(complete(client, **{name: value}), name)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
CHAT: list[tuple[str, Any]] = [
    *(("top_logprobs", value) for value in (-1, 21, 10**6, "5", True)),
    ("top_logprobs", 5),  # without logprobs
    ("logprobs", 5),
    *(("max_tokens", value) for value in (0, -1, 2**31)),
    *(("max_completion_tokens", value) for value in (0, -1, 2**31)),
    *(("messages", value) for value in ([], None, "Hello", [None], [{}], [{"role": "user"}])),
    ("messages", [{"role": "wizard", "content": "Hello"}]),
    ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "user", "content": []}]),
    ("messages", [{"role": "user", "content": [IMAGE]}]),
    ("messages", [{"role": "user", "content": [AUDIO]}]),
    ("messages", [{"role": "user", "content": "Hello", "trust": 1}]),
    ("messages", [{"role": "tool", "content": "4"}]),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "alloy", "format": "wav"}),
    ("functions", []),
    ("web_search_options", {}),
    ("prompt", "Hello"),
    ("echo", True),
    ("chat_template_kwargs", {"messages": "x"}),
    ("chat_template_kwargs", {"template": "{{ 7 * 7 }}"}),
    ("chat_template_kwargs", {"add_generation_prompt": False}),
    ("chat_template_kwargs", {"bos_token": "x"}),
    ("chat_template_kwargs", {"tools": 1}),
    ("chat_template_kwargs", {"max_tokens": 1}),
    ("chat_template_kwargs", {"tokenizer": "x"}),
    ("chat_template_kwargs", {"range": 1}),
    ("chat_template_kwargs", {"enable_thinking": True}),  # this template does not read it
    ("chat_template_kwargs", {"anything": [1]}),
    ("reasoning_effort", "high"),
]


@pytest.mark.parametrize(("name", "value"), CHAT)
def test_chat_parameters_are_refused_by_name(client: httpx.Client, name: str, value: Any) -> None:
    response = chat(client, **{name: value})
    assert_refused(response, "chat_template_kwargs" if name == "reasoning_effort" else name)


RESPONSES: list[tuple[str, Any]] = [
    ("input", None),
    ("input", []),
    ("input", [{"role": "wizard", "content": "x"}]),
    ("input", [{"type": "item_reference", "id": "x"}]),
    ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
    ("max_output_tokens", 0),
    ("previous_response_id", "resp_1"),
    ("conversation", "x"),
    ("background", True),
    ("truncation", "auto"),
    ("include", ["file_search_call.results"]),
    ("top_logprobs", 21),
    ("top_logprobs", 2),  # without include
    ("store", True),
    ("tools", [{"type": "web_search"}]),
    ("text", {"verbosity": "high"}),
    ("n", 1),
]


@pytest.mark.parametrize(("name", "value"), RESPONSES)
def test_response_parameters_are_refused_by_name(client: httpx.Client, name: str, value: Any) -> None:
    assert_refused(post(client, "/v1/responses", {"input": "Hello", "max_output_tokens": 4, name: value}), name)


def test_too_long_prompts_are_refused(client: httpx.Client) -> None:
    code = "context_length_exceeded"
    (model,) = client.get("/v1/models").json()["data"]
    assert_refused(complete(client, prompt=[5] * model["max_model_len"]), "prompt", code)
    assert_refused(complete(client, prompt="word " * 10_000), "prompt", code)
    response = chat(client, messages=[{"role": "user", "content": "word " * 10_000}])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize("text", ["a", " ", "\u0301", "<|end|>"])
def test_megabytes_of_one_piece_are_refused_without_being_encoded(client: httpx.Client, text: str) -> None:
    prompt = text * ((1 << 20) // len(text.encode()))
    assert_refused(complete(client, prompt=prompt), "prompt", "context_length_exceeded")


ACCEPTED: list[dict[str, Any]] = [
    {"temperature": 1e-300},
    {"temperature": 100, "top_p": 1e-9},
    {"temperature": 0, "top_k": -1, "min_p": 1.0},
    {"repetition_penalty": 100, "presence_penalty": 2, "frequency_penalty": -2},
    {"repetition_penalty": 0.01, "temperature": 0.01},
    {"logit_bias": {"0": 100, "17": -100}},
    {"logit_bias": {str(token): -100 for token in range(MAX_LOGIT_BIAS)}},
    {"stop": ["a", "ab", "abc", "b"], "temperature": 0},
    {"stop": []},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1},
    {"n": MAX_N, "max_tokens": 1},
    {"min_tokens": 4, "ignore_eos": False},
    {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    {"cache_salt": "pepper", "priority": -5, "timeout": 60.0},
    dict.fromkeys(("n", "stop", "seed", "temperature", "top_p", "logit_bias", "stream", "user", "top_k")),
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=lambda fields: ",".join(fields)[:60])
def test_odd_values_have_a_result(client: httpx.Client, fields: dict[str, Any]) -> None:
    for response in (complete(client, **fields), chat(client, **fields)):
        assert response.status_code == 200, response.text
        assert len(response.json()["choices"]) == (fields.get("n") or 1)


def test_null_and_zero_max_tokens(client: httpx.Client) -> None:
    assert complete(client, max_tokens=None).json()["usage"]["completion_tokens"] <= 16
    answer = complete(client, max_tokens=0).json()
    assert answer["choices"][0]["text"] == ""
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0


def test_prompts_times_n_are_bounded(client: httpx.Client) -> None:
    assert_refused(complete(client, prompt=["a"] * 128, n=16, max_tokens=1), "n")


def test_unknown_model_is_not_found(client: httpx.Client) -> None:
    for response in (complete(client, model="gpt-5"), chat(client, model="gpt-5"), client.get("/v1/models/gpt-5")):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
