"""A real trained checkpoint: the same greedy text and the same perplexity as transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

CONTINUATION = (
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. "
    "She wanted to play with it, but it was too high."
)


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "weights" / "stories260K"


@pytest.fixture(scope="module")
def oracle(stories: Path) -> transformers.PreTrainedModel:
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llm(stories: Path) -> LLM:
    return LLM(str(stories), max_num_seqs=4)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_greedy_text_is_readable(stories: Path, backend: str) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=80)
    llm = LLM(str(stories), backend=backend, max_num_seqs=1)
    assert llm.generate("Once upon a time", params)[0].outputs[0].text.startswith(CONTINUATION)


@pytest.mark.parametrize("prompt", ["Once upon a time", "Lily and Tom", "The dog was sad because"])
def test_200_greedy_tokens_equal_transformers(llm: LLM, oracle: transformers.PreTrainedModel, prompt: str) -> None:
    ids = llm.tokenizer.encode(prompt)
    with torch.no_grad():
        expected = oracle.generate(
            torch.tensor([ids]),
            max_new_tokens=200,
            min_new_tokens=200,
            do_sample=False,
            num_beams=1,
            eos_token_id=None,
        )[0, len(ids) :].tolist()
    params = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
    assert llm.generate([ids], params)[0].outputs[0].token_ids == expected


def test_perplexity_equals_transformers(llm: LLM, oracle: transformers.PreTrainedModel, shared: Path) -> None:
    text = (shared / "eval" / "tinystories_sample.txt").read_text()[:40_000]
    ids = llm.tokenizer.encode(text, add_special=False)
    windows = [ids[start : start + 256] for start in range(0, len(ids) - 256, 256)]
    total = 0.0
    with torch.no_grad():
        for window in windows:
            logprobs = oracle(torch.tensor([window])).logits[0].log_softmax(-1)
            total -= float(logprobs[torch.arange(255), torch.tensor(window[1:])].sum())
    expected = math.exp(total / (255 * len(windows)))
    outputs = llm.generate(windows, SamplingParams(max_tokens=0, prompt_logprobs=0))
    ours = sum(entry.logprob for output in outputs for entry in (output.prompt_logprobs or []) if entry)
    assert math.exp(-ours / (255 * len(windows))) == pytest.approx(expected, rel=1e-3)
    assert expected < 10  # the sample is in the model's domain: a wrong tokenizer would show here
