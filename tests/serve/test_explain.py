"""`/v1/requests/{id}/explain`: to whom it answers, and whether what it says is so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from canaries import gauge
from served_process import ServedProcess, eventually, served, standing_still

from vivace.core.errors import OverloadedError
from vivace.serve.stories import PromptStory, RequestBook, RequestStory

BOUND = ("--max-queued-requests", "24")
FLAGS = (
    *BOUND,
    "--num-threads",
    "1",
    "--num-kv-blocks",
    "64",
    "--max-num-seqs",
    "2",
    "--max-num-batched-tokens",
    "64",
    "--max-queue-s",
    "600",  # on a slow machine too, the number of requests is what refuses
)
GUESSES = ("--speculative-config", '{"method": "ngram", "adaptive": false}')
TEXT = "the sea and the stone and the river and the old woman who sang to the wind " * 4


@pytest.fixture(scope="module")
def keyed() -> Iterator[ServedProcess]:
    """Two keys, two rows, few blocks, and guesses whenever there are any."""
    with served(*FLAGS, *GUESSES, "--api-key", "other-key") as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def client(keyed: ServedProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer test-key"}
    with httpx.Client(base_url=keyed.base_url, headers=headers, timeout=120.0) as client:
        yield client


def complete(client: httpx.Client, prompt: Any, **options: Any) -> httpx.Response:
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **options}
    return client.post("/v1/completions", json=body).raise_for_status()


def explained(client: httpx.Client, request_id: str) -> dict[str, Any]:
    return dict(client.get(f"/v1/requests/{request_id}/explain").raise_for_status().json())


def only(explanation: dict[str, Any]) -> dict[str, Any]:
    (prompt,) = explanation["prompts"]
    return dict(prompt)


def test_every_id_of_a_request_finds_it(client: httpx.Client) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answers = [
        complete(client, "Once upon a time"),
        client.post("/v1/chat/completions", json=chat),
        client.post("/v1/responses", json={"input": "Hello", "max_output_tokens": 4}),
    ]
    for answer in answers:
        by_header, by_id = answer.headers["x-request-id"], answer.json()["id"]
        assert by_header != by_id
        assert explained(client, by_header)["id"] == by_header == explained(client, by_id)["id"]


def test_embeddings_have_one_too(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["one", "two words"], "pooling": "last"})
    explanation = explained(client, answer.headers["x-request-id"])
    assert (explanation["num_prompts"], explanation["status"]) == (2, "finished")
    assert [one["prefix"]["first_miss"] for one in explanation["prompts"]] == ["short", "short"]


def test_only_the_key_that_made_it_is_told(keyed: ServedProcess, client: httpx.Client) -> None:
    request_id = complete(client, "Mine alone").headers["x-request-id"]
    path = f"{keyed.base_url}/v1/requests/{request_id}/explain"
    other = httpx.get(path, headers={"Authorization": "Bearer other-key"}, timeout=60.0)
    unknown = client.get(f"/v1/requests/{request_id[:-1]}x/explain")
    assert (other.status_code, unknown.status_code) == (404, 404)
    assert other.json()["error"]["code"] == unknown.json()["error"]["code"] == "request_not_found"
    assert httpx.get(path, timeout=60.0).status_code == 401
    assert client.get(f"/v1/requests/{request_id}/explain").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("request_id", ["x", "req-", "%00", "..%2f..", "a" * 3000, "é", "req-%0d%0aX: y"])
def test_ids_that_are_none(client: httpx.Client, request_id: str) -> None:
    assert client.get(f"/v1/requests/{request_id}/explain").status_code in (400, 404)


def test_the_prefix_cache_is_told_of(client: httpx.Client) -> None:
    salt = {"cache_salt": "prefix"}
    ids = client.post("/tokenize", json={"prompt": TEXT}).json()["tokens"][:50]
    other = [*ids[:37], (ids[37] + 1) % 4096, *ids[38:]]
    found = [only(explained(client, complete(client, prompt, **salt).json()["id"])) for prompt in (ids, ids, other)]
    misses = [(one["prefix"]["first_miss"], one["prefix"]["num_cached_tokens"]) for one in found]
    assert misses == [("salt", 0), ("complete", 48), ("different", 32)]
    assert found[2]["prefix"]["first_miss_position"] == 37
    assert "at position 37" in " ".join(found[2]["summary"])
    assert [sum(chunk["num_tokens"] for chunk in one["prefill"]["chunks"]) for one in found] == [50, 2, 18]
    scored = complete(client, ids, prompt_logprobs=0, **salt).json()["id"]
    assert only(explained(client, scored))["prefix"]["first_miss"] == "unused"


def test_chunks_and_time_add_up(client: httpx.Client) -> None:
    ids = client.post("/tokenize", json={"prompt": TEXT * 3}).json()["tokens"][:150]
    prompt = only(explained(client, complete(client, ids, cache_salt="chunks").json()["id"]))
    chunks = prompt["prefill"]["chunks"]
    assert [(one["start"], one["num_tokens"]) for one in chunks] == [(0, 64), (64, 64), (128, 22)]
    assert prompt["prefill"]["num_chunks"] == 3
    times = [one["at_ms"] for one in chunks]
    assert times == sorted(times)
    assert prompt["decode"]["num_output_tokens"] == 8
    assert prompt["status"] == "finished"
    assert prompt["finish_reason"] == "length"


def test_guesses_are_counted(client: httpx.Client) -> None:
    prompt = only(explained(client, complete(client, TEXT, max_tokens=60).json()["id"]))
    guesses = prompt["speculation"]
    assert guesses["num_guessed"] >= guesses["num_accepted"] > 0
    assert prompt["decode"]["num_steps"] < 60
    assert guesses["choices"]["guess"] > 0
    assert "guessed tokens stood" in prompt["summary"][-1]


def test_a_text_that_a_stop_string_ends_is_told_of_too(client: httpx.Client) -> None:
    answer = complete(client, TEXT, max_tokens=60, stop=["e"]).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert eventually(lambda: only(explained(client, answer["id"]))["prefix"]["first_miss"] is not None)


def test_several_prompts_have_explanations_of_their_own(client: httpx.Client) -> None:
    explanation = explained(client, complete(client, ["one", "two", "three"]).json()["id"])
    assert (explanation["num_prompts"], [one["index"] for one in explanation["prompts"]]) == (3, [0, 1, 2])
    many = explained(client, complete(client, ["x"] * 20, max_tokens=1).json()["id"])
    assert (many["num_prompts"], len(many["prompts"])) == (20, 16)


def test_a_wait_has_its_reason_and_a_running_request_is_told_of(keyed: ServedProcess, client: httpx.Client) -> None:
    """Two streams take both rows; a third waits for one of them, at the door."""
    leave = threading.Event()
    ids: list[str] = []
    body = {"prompt": "The sea", "max_tokens": 400, "stream": True, "ignore_eos": True, "temperature": 0}
    headers = {"Authorization": "Bearer test-key"}

    def hold() -> None:
        url = f"{keyed.base_url}/v1/completions"
        while not leave.is_set():
            with httpx.stream("POST", url, json=body, headers=headers, timeout=120.0) as answer:
                ids.append(answer.headers["x-request-id"])
                for _ in answer.iter_raw():
                    if leave.is_set():
                        break

    holders = [threading.Thread(target=hold) for _ in range(2)]
    for holder in holders:
        holder.start()
    try:
        assert eventually(lambda: len(ids) >= 2)

        def runs() -> bool:
            explanation = explained(client, ids[-1])
            one = only(explanation)
            is_running = explanation["status"] == "running" and one["prefix"]["first_miss"] is not None
            return is_running and one["decode"]["num_output_tokens"] > 0

        assert eventually(runs)

        def was_delayed() -> bool:
            one = only(explained(client, complete(client, "Me too", max_tokens=1).json()["id"]))
            return "rows" in one["queue"]["delays_ms"] and "every row" in " ".join(one["summary"])

        assert eventually(was_delayed)
    finally:
        leave.set()
        for holder in holders:
            holder.join()


def test_a_refusal_is_told_of(keyed: ServedProcess, client: httpx.Client) -> None:
    """A crowd of prompts fills the rows and the queue until it is asked to leave."""
    leave = threading.Event()
    crowd = {"prompt": ["The sea"] * 100, "max_tokens": 100, "stream": True, "ignore_eos": True}
    refusals: list[httpx.Response] = []

    def stay() -> None:
        url, headers = f"{keyed.base_url}/v1/completions", {"Authorization": "Bearer test-key"}
        while not leave.is_set():
            with httpx.stream("POST", url, json=crowd, headers=headers, timeout=120.0) as answer:
                for _ in answer.iter_raw():
                    if leave.is_set():
                        break

    def is_refused() -> bool:
        answer = client.post("/v1/completions", json={"prompt": "Me too", "max_tokens": 1, "priority": -100})
        refusals.extend([answer] if answer.status_code == 429 else [])
        wrong = client.post("/v1/completions", json={"prompt": 3})  # refused before anybody looks at it
        refusals.extend([wrong] if wrong.status_code == 429 else [])
        assert client.post("/v1/completions", json={"prompt": 3, "priority": 0}).status_code == 400
        vector = client.post("/v1/embeddings", json={"input": "Me too", "priority": -100})
        refusals.extend([vector] if vector.status_code == 429 else [])
        return len({answer.request.content for answer in refusals}) == 3

    stayer = threading.Thread(target=stay)
    stayer.start()
    try:
        assert eventually(is_refused)
    finally:
        leave.set()
        stayer.join()
    for answer in refusals:
        explanation = explained(client, answer.headers["x-request-id"])
        prompt = only(explanation)
        assert explanation["status"] == prompt["status"] == "refused"
        assert prompt["refusal"] == answer.json()["error"]["message"]
        assert prompt["queue"]["num_ahead"] > 0
        assert "too many requests wait" in explanation["summary"][0]


def test_a_restart_is_told_of(keyed: ServedProcess, client: httpx.Client) -> None:
    """Last in this module: the engine that the others used dies here, and stands still until it does.

    What it has sent by then has been read when the server answers the question how much is under way.
    """
    body = {"prompt": "Long ago", "max_tokens": 700, "ignore_eos": True, "stream": True}
    died: list[str] = []

    def dies_on_the_way() -> bool:
        """Whether the engine died over a request, which has brought something, before it was complete."""
        engine_pid = keyed.engine_pid
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            with standing_still(engine_pid):
                if gauge(keyed, "http_requests_open") == 2:  # this request and the look itself
                    os.kill(engine_pid, signal.SIGKILL)
                    died.append(answer.headers["x-request-id"])
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        return bool(died)

    assert eventually(lambda: gauge(keyed, "http_requests_open") == 1)
    assert eventually(dies_on_the_way)
    keyed.line_with("restarting it")
    prompt = only(explained(client, died[0]))
    assert prompt["num_restarts"] == 1
    assert "died once" in prompt["summary"][1]
    assert "of the last engine alone" in prompt["summary"][1]


def test_the_book_is_bounded() -> None:
    book = RequestBook(max_requests=3, max_refused=3)
    for number in range(10):
        book.add(RequestStory(f"req-{number}", "a", 1, 0, [PromptStory("job")]))
    assert len(book) == 3
    assert book.find("req-6", "a") is None
    assert book.find("chatcmpl-9", "a") is book.find("resp_9", "a") is book.find("req-9", "a") is not None
    assert book.find("req-9", "b") is None
    for number in range(20, 30):
        refused = RequestStory(f"req-{number}", "a", 1, 0)
        book.refuse(refused, OverloadedError("too many", retry_after_s=1.0), 7)
    assert (len(book), book.find("req-20", "a")) == (3, None)
    kept = book.find("req-29", "a")
    assert kept is not None
    assert (kept.prompts[0].status, kept.prompts[0].refusal, kept.prompts[0].num_ahead) == ("refused", "too many", 7)
