"""Echo with log probabilities: how evaluation harnesses score texts over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from served_process import ServedProcess

from vivace.core.events import TokenLogprobs
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

MODEL = "vivace-embedded"
TEXT = "It was the best of times, it was the worst of times – naïve café 日本"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(num_threads=1, num_kv_blocks=256)


@pytest.fixture
def client(server: ServedProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=server.api_key, max_retries=0) as client:
        yield client


def scores(llm: LLM, ids: list[int], num_top: int) -> list[TokenLogprobs | None]:
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=num_top)
    found = llm.generate(ids, params)[0].prompt_logprobs
    assert found is not None
    return found


def test_scores_are_those_of_the_engine(client: openai.OpenAI, llm: LLM) -> None:
    ids = llm.tokenizer.encode(TEXT)
    expected = scores(llm, ids, 3)
    answer = client.completions.create(model=MODEL, prompt=TEXT, max_tokens=0, echo=True, logprobs=3)
    assert answer.choices[0].text == TEXT
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs == [None if entry is None else entry.logprob for entry in expected]
    assert found.top_logprobs is not None
    assert found.top_logprobs[0] is None
    for top, entry in zip(found.top_logprobs[1:], expected[1:], strict=True):
        assert entry is not None
        assert sorted(top.values(), reverse=True)[:3] == sorted(entry.top_logprobs, reverse=True)
        assert entry.logprob in top.values()


def test_offsets_point_at_the_tokens(client: openai.OpenAI) -> None:
    found = client.completions.create(model=MODEL, prompt=TEXT, max_tokens=5, echo=True, logprobs=0, temperature=0)
    row, text = found.choices[0].logprobs, found.choices[0].text
    assert row is not None
    assert row.text_offset is not None
    assert row.tokens is not None
    assert text.startswith(TEXT)
    assert len(row.tokens) == len(row.token_logprobs) == len(row.text_offset)
    for token, start in zip(row.tokens, row.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert text[start : start + len(token)] == token


def test_what_lm_evaluation_harness_sends(client: openai.OpenAI, llm: LLM) -> None:
    """Its local-completions model: a batch of token ids, of which it reads all scores but the last."""
    texts = ["The sea was calm.", "In the beginning", TEXT]
    prompts = [llm.tokenizer.encode(text) for text in texts]
    fields = {"model": MODEL, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = client.completions.create(prompt=prompts, **fields)
    for choice, ids in zip(answer.choices, prompts, strict=True):
        expected = scores(llm, ids, 1)
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs[1:-1] == [entry.logprob for entry in expected[1:] if entry]
        greedy = [score == max(top.values()) for score, top in _pairs(choice.logprobs)]
        assert greedy == [entry.rank == 1 for entry in expected[1:] if entry]


def _pairs(logprobs: openai.types.completion_choice.Logprobs) -> list[tuple[float, dict[str, float]]]:
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    return list(zip(logprobs.token_logprobs[1:-1], logprobs.top_logprobs[1:-1], strict=True))


def test_streamed_echo_is_the_whole_one(client: openai.OpenAI) -> None:
    fields = {"model": MODEL, "prompt": TEXT, "max_tokens": 6, "echo": True, "logprobs": 2, "temperature": 0}
    whole = client.completions.create(**fields).choices[0]
    text, tokens, offsets = "", [], []
    for chunk in client.completions.create(stream=True, **fields):
        text += chunk.choices[0].text
        if chunk.choices[0].logprobs is not None:
            tokens += chunk.choices[0].logprobs.token_logprobs
            offsets += chunk.choices[0].logprobs.text_offset
    assert whole.logprobs is not None
    assert (text, tokens, offsets) == (whole.text, whole.logprobs.token_logprobs, whole.logprobs.text_offset)


def test_prompt_logprobs_of_both_routes(client: openai.OpenAI, llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    extra = {"prompt_logprobs": 2}
    text = client.completions.create(model=MODEL, prompt="The sea", max_tokens=1, extra_body=extra)
    chat = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1, extra_body=extra)
    for answer, ids in ((text, llm.tokenizer.encode("The sea")), (chat, llm.chat_prompt(messages))):
        found = answer.choices[0].model_extra["prompt_logprobs"]
        assert found[0] is None
        for entry, expected, token in zip(found[1:], scores(llm, ids, 2)[1:], ids[1:], strict=True):
            assert expected is not None
            assert entry[str(token)]["logprob"] == expected.logprob
            assert entry[str(token)]["rank"] == expected.rank
