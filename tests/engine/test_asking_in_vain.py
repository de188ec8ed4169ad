"""Where steps may overlap, a question to the rule that brings no guess costs what a rest would have hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("torch", reason="the CUDA backend needs torch")

import torch

from vivace.backends.cuda.drawn import DrawnTokens
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 12}  # 12 tokens do not come twice
OPTIONS: dict[str, Any] = {
    "backend": "cuda", "device": "cpu", "quantization": "f32", "max_model_len": 128, "num_kv_blocks": 64,
    "max_num_seqs": 2,
}  # fmt: skip
PARAMS = SamplingParams(max_tokens=100, temperature=1.5, seed=4, ignore_eos=True)
PROMPTS = ["Anne was", "The sea", "It is a truth", "A letter"]


@dataclass
class Stopwatch:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            self.now += seconds
            return call(*given)

        return timed


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def texts_of(llm: LLM) -> list[list[int]]:
    """One after the other."""
    return [llm.generate([prompt], PARAMS)[0].outputs[0].token_ids for prompt in PROMPTS]


@pytest.mark.parametrize("overlap_steps", [False, True])
def test_it_is_paid_for_by_steps_that_overlap(overlap_steps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 5 ms that a host prepares in one: a rest hides that one, and the rule rests until it has paid for
    another question. Where nothing can overlap, questions that take no time are asked at every step."""
    llm, watch = LLM(**OPTIONS, speculative_config=NGRAM, overlap_steps=overlap_steps), Stopwatch()
    speculation, runner = llm.engine.speculation, llm.engine._runner
    assert speculation is not None
    monkeypatch.setattr(speculation, "_clock", watch)
    monkeypatch.setattr(speculation._cycle, "began", 0.0)
    monkeypatch.setattr(runner, "_clock", watch)
    monkeypatch.setattr(DrawnTokens, "read", watch.taking(5e-3, DrawnTokens.read))
    monkeypatch.setattr(runner._batch, "build", watch.taking(1e-3, runner._batch.build))
    texts = texts_of(llm)
    rested = speculation.stats.num_choices["rest"]
    if overlap_steps:
        assert speculation.rule.plain.seconds(1) == pytest.approx(5e-3)
        assert speculation.rule.asking.seconds(1) == pytest.approx(1e-3)
        assert rested > 200
    else:
        assert speculation.rule.plain.seconds(1) == pytest.approx(6e-3)
        assert rested == 0
    monkeypatch.undo()
    assert texts == texts_of(LLM(**OPTIONS, overlap_steps=False))
