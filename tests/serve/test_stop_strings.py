"""Stop strings over HTTP: the text ends exactly before the first one that is complete, however it was cut."""

from __future__ import annotations

import random
from collections.abc import Iterator

import openai
import pytest
from served_process import ServedProcess

MODEL = "vivace-embedded"
SEED = 20_261_122
FIELDS = {"model": MODEL, "prompt": "Once upon a time there was", "max_tokens": 48, "seed": 3}


@pytest.fixture(scope="module")
def client(server: ServedProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=server.api_key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def text(client: openai.OpenAI) -> str:
    return client.completions.create(**FIELDS).choices[0].text


def expected_cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By definition: the stop that ends first wins, the longest of those that end together."""
    ends = [(position + len(stop), -len(stop), stop) for stop in stops if (position := text.find(stop)) >= 0]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


def random_stops(text: str, generator: random.Random) -> list[str]:
    """Pieces of the text, of one character to several words, overlapping as it happens; and one that never comes."""
    stops = ["never in this text"]
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(text) // 3, len(text) - 1)
        stops.append(text[start : start + generator.randint(1, 14)])
    return stops


@pytest.mark.parametrize("number", range(12))
def test_random_stops_cut_exactly(client: openai.OpenAI, text: str, number: int) -> None:
    stops = random_stops(text, random.Random(SEED + number))
    cut, stop = expected_cut(text, stops)
    whole = client.completions.create(stop=stops, **FIELDS).choices[0]
    assert (whole.text, whole.model_extra["stop_reason"]) == (cut, stop)
    assert whole.finish_reason == ("stop" if stop else "length")
    chunks = list(client.completions.create(stop=stops, stream=True, **FIELDS))
    assert "".join(chunk.choices[0].text for chunk in chunks) == cut
    kept = client.completions.create(stop=stops, extra_body={"include_stop_str_in_output": True}, **FIELDS)
    assert kept.choices[0].text == cut + (stop or "")


def test_each_continuation_stops_for_itself(client: openai.OpenAI) -> None:
    plain = [choice.text for choice in client.completions.create(n=4, **FIELDS).choices]
    stops = [" the", ",", "."]
    stopped = client.completions.create(n=4, stop=stops, **FIELDS)
    assert [choice.text for choice in stopped.choices] == [expected_cut(one, stops)[0] for one in plain]
    texts = [""] * 4
    for chunk in client.completions.create(n=4, stop=stops, stream=True, **FIELDS):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in stopped.choices]


def test_stop_token_ids(client: openai.OpenAI) -> None:
    fields = {"model": MODEL, "prompt": "The sea", "temperature": 0, "max_tokens": 20}
    extra = {"return_token_strs": True, "add_special_tokens": False}
    text = client.completions.create(**fields).choices[0].text
    tokens = client.post("/../tokenize", cast_to=object, body={"prompt": text, **extra})
    token, name = tokens["tokens"][5], tokens["token_strs"][5]
    stopped = client.completions.create(extra_body={"stop_token_ids": [token]}, **fields).choices[0]
    assert stopped.model_extra["stop_reason"] == token
    assert text.startswith(stopped.text + name)
    both = {"stop_token_ids": [token], "include_stop_str_in_output": True}
    assert client.completions.create(extra_body=both, **fields).choices[0].text == stopped.text + name
