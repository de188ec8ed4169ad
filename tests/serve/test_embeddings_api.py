"""POST /v1/embeddings as the official client and LangChain use it; what is refused; who leaves."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
import transformers
from canaries import gauge, num_used_blocks
from langchain_openai import OpenAIEmbeddings
from served_process import ServedProcess, eventually

from vivace.resources import embedded_model_path

TEXTS = ["Once upon a time", "The old man went home.", "In the morning, the sea was still."]
HIDDEN_SIZE = 256
BF16_TOLERANCE = 0.02  # of values up to 0.2: weights are bfloat16 in both, our keys and values too


@pytest.fixture(scope="module")
def client(server: ServedProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=server.api_key, max_retries=0)


@pytest.fixture(scope="module")
def http(server: ServedProcess) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, timeout=120.0) as http:
        yield http


@pytest.fixture(scope="module")
def states() -> list[np.ndarray]:
    """Hidden states [T, D] of each text, as transformers computes them."""
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_model_path())
    model = transformers.AutoModel.from_pretrained(embedded_model_path(), dtype=torch.float32)
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy() for text in TEXTS]


def embed(client: openai.OpenAI, texts: Any, **extra: Any) -> np.ndarray:
    answer = client.embeddings.create(model="vivace-embedded", input=texts, extra_body=extra)
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data])


def refusal(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize("pooling", [None, "mean", "last"])
def test_vectors_are_those_of_transformers(
    client: openai.OpenAI, states: list[np.ndarray], pooling: str | None
) -> None:
    vectors = embed(client, TEXTS, **({} if pooling is None else {"pooling": pooling}))
    for vector, state_TD in zip(vectors, states, strict=True):
        pooled = state_TD[-1] if pooling == "last" else state_TD.mean(axis=0)
        assert np.abs(vector - pooled / np.linalg.norm(pooled)).max() < BF16_TOLERANCE
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)


def test_not_normalized(client: openai.OpenAI, states: list[np.ndarray]) -> None:
    vector = embed(client, TEXTS[0], normalize=False)[0]
    assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(states[0].mean(axis=0)), rel=BF16_TOLERANCE)


def test_floats_and_base64_are_the_same_values(http: httpx.Client) -> None:
    bodies = [{"input": TEXTS, "encoding_format": form} for form in ("float", "base64")]
    floats, encoded = (http.post("/v1/embeddings", json=body).json()["data"] for body in bodies)
    for plain, text in zip(floats, encoded, strict=True):
        decoded = np.frombuffer(base64.b64decode(text["embedding"]), "<f4")
        assert decoded.astype(np.float64).tolist() == plain["embedding"]
        assert len(decoded) == HIDDEN_SIZE


def test_texts_token_ids_and_lists_of_both_agree(client: openai.OpenAI, http: httpx.Client) -> None:
    ids = [http.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in TEXTS]
    expected = embed(client, TEXTS)
    assert np.array_equal(embed(client, ids), expected)
    assert np.array_equal(embed(client, ids[1]), expected[1:2])
    assert np.array_equal(embed(client, TEXTS[1]), expected[1:2])
    assert np.array_equal(embed(client, TEXTS, pooling="mean", normalize=True), expected)


def test_answer_says_what_it_cost(client: openai.OpenAI, http: httpx.Client) -> None:
    answer = client.embeddings.create(model="vivace-embedded", input=TEXTS, dimensions=HIDDEN_SIZE, user="someone")
    count = sum(http.post("/tokenize", json={"prompt": text}).json()["count"] for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)
    assert (answer.model, answer.object, answer.data[0].object) == ("vivace-embedded", "list", "embedding")


def test_metrics_count_inputs_and_their_tokens(client: openai.OpenAI, server: ServedProcess) -> None:
    before = gauge(server, "prompt_tokens_total")
    embed(client, [[1, 2, 3], [4, 5]])
    assert gauge(server, "prompt_tokens_total") == before + 5


def test_langchain(server: ServedProcess, client: openai.OpenAI) -> None:
    """With its defaults it sends token ids of another tokenizer, for OpenAI's models: that has to be switched off."""
    langchain = OpenAIEmbeddings(
        model="vivace-embedded",
        base_url=f"{server.base_url}/v1",
        api_key=server.api_key,
        check_embedding_ctx_length=False,
    )
    assert np.array_equal(langchain.embed_documents(TEXTS), embed(client, TEXTS))
    assert np.array_equal(langchain.embed_query(TEXTS[2]), embed(client, TEXTS[2])[0])


def test_as_many_inputs_as_openai_takes(client: openai.OpenAI) -> None:
    vectors = embed(client, [[number, number + 1] for number in range(2048)])
    assert vectors.shape == (2048, HIDDEN_SIZE)
    assert len(np.unique(vectors, axis=0)) == 2048
    assert np.array_equal(vectors[1000:1001], embed(client, [1000, 1001]))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [[1]] * 2049}, "input"),
        ({"input": [4096]}, "input"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": "a", "dimensions": 128}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "pooling": "cls"}, "pooling"),
        ({"input": "a", "truncate_prompt_tokens": 4}, "truncate_prompt_tokens"),
        ({"input": "a", "timeout": 0}, "timeout"),
    ],
)
def test_what_is_refused_is_named(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    assert refusal(http, **body)["param"] == param


def test_too_long_inputs_are_named_too(http: httpx.Client) -> None:
    for text in ("sea " * 4_000, "sea " * 800_000):
        error = refusal(http, input=["short", text])
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_unknown_model_and_missing_key(http: httpx.Client, server: ServedProcess) -> None:
    assert http.post("/v1/embeddings", json={"input": "a", "model": "other"}).status_code == 404
    assert httpx.post(f"{server.base_url}/v1/embeddings", json={"input": "a"}, timeout=60.0).status_code == 401


def test_timeout_ends_it(http: httpx.Client, server: ServedProcess) -> None:
    answer = http.post("/v1/embeddings", json={"input": [[7] * 1000] * 500, "timeout": 0.2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert eventually(lambda: num_used_blocks(server) == 0)


def test_client_that_leaves_frees_every_block(server: ServedProcess) -> None:
    body = json.dumps({"input": [[7] * 1000] * 500}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        assert eventually(lambda: num_used_blocks(server) > 0)  # 500,000 tokens: minutes of work
    assert eventually(lambda: num_used_blocks(server) == 0)
    assert eventually(lambda: gauge(server, "num_requests_waiting") == 0)
