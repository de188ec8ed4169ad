"""A sample of benches/speculate_identity.py: greedy text over real prompts, with and without guesses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

METHODS: list[dict[str, Any]] = [
    {"method": "ngram", "prompt_lookup_min": 2},
    {"method": "draft_model", "model": "embedded-draft"},
]


@pytest.fixture(scope="module")
def prompts(shared: Path) -> list[str]:
    path = shared / "eval" / "spec_bench_questions.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return [json.loads(line)["turns"][0] for line in path.read_text().splitlines()[::40]]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method["method"]))
def test_greedy_texts_are_equal(prompts: list[str], method: dict[str, Any]) -> None:
    options: dict[str, Any] = {"max_model_len": 1536, "max_num_seqs": 12}
    params = SamplingParams(max_tokens=32, temperature=0.0, ignore_eos=True)
    plain, speculating = LLM(**options), LLM(**options, speculative_config={**method, "adaptive": False})
    ids = [plain.tokenizer.encode(text)[-1500:] for text in prompts]
    texts = [[output.outputs[0].token_ids for output in llm.generate(ids, params)] for llm in (plain, speculating)]
    assert texts[0] == texts[1]
    assert speculating.engine.speculation is not None
    assert speculating.engine.speculation.stats.num_accepted_tokens > 0
