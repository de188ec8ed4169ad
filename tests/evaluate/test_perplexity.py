"""Perplexity over windows, against transformers over the same windows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, strategies

from vivace.core.errors import ConfigError
from vivace.engine.llm import LLM
from vivace.evaluate.perplexity import perplexity, windows

WINDOW, STRIDE = 192, 128


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "weights" / "stories260K"


@pytest.fixture(scope="module")
def llm(stories: Path) -> LLM:
    return LLM(str(stories), max_num_seqs=4, max_model_len=256)


@given(strategies.data())
def test_every_token_but_the_first_is_scored_once_with_context(data: strategies.DataObject) -> None:
    window = data.draw(strategies.integers(2, 40))
    stride = data.draw(strategies.integers(1, window - 1))
    num_tokens = data.draw(strategies.integers(0, 200))
    cuts = list(windows(num_tokens, window, stride))
    assert [token for cut in cuts for token in range(cut.first_scored, cut.stop)] == list(range(1, num_tokens))
    for cut in cuts:
        assert cut.first_scored - cut.start > 0
        assert cut.stop - cut.start <= window
        assert cut.first_scored - cut.start >= min(window - stride, cut.first_scored)


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 0), (1, 1)])
def test_a_window_needs_something_to_predict_from(window: int, stride: int) -> None:
    with pytest.raises(ConfigError, match="stride"):
        list(windows(100, window, stride))


def test_equals_transformers(llm: LLM, stories: Path, shared: Path) -> None:
    text = (shared / "eval" / "tinystories_sample.txt").read_text()[:12_000]
    torch.set_num_threads(1)
    oracle = transformers.AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()
    ids = torch.tensor(llm.tokenizer.encode(text))
    total, scored = 0.0, 1
    with torch.no_grad():
        for start in range(0, len(ids), STRIDE):  # the loop of transformers' own page on perplexity
            stop = min(start + WINDOW, len(ids))
            logprobs = oracle(ids[None, start:stop]).logits[0].log_softmax(-1)
            positions = torch.arange(scored, stop)
            total -= float(logprobs[positions - start - 1, ids[positions]].sum())
            scored = stop
            if stop == len(ids):
                break
    result = perplexity(llm, text, window=WINDOW, stride=STRIDE)
    assert result.num_tokens == len(ids) - 1
    assert result.num_bytes == len(text.encode())
    assert result.perplexity == pytest.approx(math.exp(total / result.num_tokens), rel=1e-4)
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / result.num_bytes, rel=1e-4)


def test_progress_counts_windows(llm: LLM) -> None:
    seen: list[tuple[int, int]] = []
    result = perplexity(llm, "Lily and Tom went to the park. " * 40, window=16, progress=lambda *at: seen.append(at))
    assert result.stride == 8
    assert seen[-1] == (result.num_windows, result.num_windows)


def test_nothing_to_score(llm: LLM) -> None:
    with pytest.raises(ConfigError, match="fewer than two"):
        perplexity(llm, "")
