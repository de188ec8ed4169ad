"""The draft model in an engine: what it computes, what it refuses, what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.llm import LLM
from vivace.ops.backend import StepInputs
from vivace.resources import embedded_model_path
from vivace.speculate.draft_model import DraftModel

DRAFT: dict[str, Any] = {"method": "draft_model", "model": "embedded-draft", "adaptive": False}
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


class CountingExecutable:
    """Counts the rows that go through another one."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable
        self.num_rows: list[int] = []

    def run(self, inputs: StepInputs) -> Any:
        self.num_rows.append(len(inputs.token_ids_T))
        return self.executable.run(inputs)


def counted(llm: LLM) -> CountingExecutable:
    assert llm.engine.speculation is not None
    draft = llm.engine.speculation.proposer
    assert isinstance(draft, DraftModel)
    counting = CountingExecutable(draft._executable)
    draft._executable = counting
    return counting


def test_a_shared_prefix_is_computed_once_by_the_draft_too() -> None:
    llm = LLM(max_model_len=256, num_kv_blocks=64, speculative_config=DRAFT)
    counting = counted(llm)
    prompt = list(range(300, 400))
    llm.generate([prompt], GREEDY)
    assert max(counting.num_rows) == len(prompt) + 1  # the prompt and the first token, before the first guess
    counting.num_rows.clear()
    llm.generate([prompt], GREEDY)
    assert max(counting.num_rows) <= len(prompt) % 16 + 1 + 16  # the blocks that were hashed when the draft used them


def test_a_model_that_guesses_for_itself_is_always_right() -> None:
    own = {**DRAFT, "model": str(embedded_model_path())}
    llm = LLM(max_model_len=256, num_kv_blocks=64, speculative_config=own)
    for params in (GREEDY, SamplingParams(max_tokens=24, temperature=1.0, seed=3, ignore_eos=True)):
        llm.generate(["The sea", "In the morning"], params)
    assert llm.engine.speculation is not None
    stats = llm.engine.speculation.stats
    assert stats.num_accepted_tokens == stats.num_draft_tokens > 0


def test_guesses_end_where_the_drafts_context_ends() -> None:
    llm = LLM(max_model_len=64, num_kv_blocks=16, speculative_config=DRAFT)
    assert llm.engine.speculation is not None
    llm.engine.speculation.proposer._max_model_len = 40  # type: ignore[attr-defined]
    plain = LLM(max_model_len=64, num_kv_blocks=16)
    params = SamplingParams(max_tokens=44, temperature=0.0, ignore_eos=True)
    prompt = list(range(300, 320))
    ours, theirs = llm.generate([prompt], params)[0], plain.generate([prompt], params)[0]
    assert ours.outputs[0].token_ids == theirs.outputs[0].token_ids
    assert len(ours.outputs[0].token_ids) == 44


def test_another_vocabulary_is_refused(shared: Path) -> None:
    draft = {"method": "draft_model", "model": str(shared / "weights" / "stories260K")}
    with pytest.raises(ConfigError, match="512 tokens in its vocabulary, the model 4096"):
        LLM(speculative_config=draft)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "is not JSON"),
        ("ngram", "'ngram' is not JSON"),
        ("[]", "must be an object"),
        ({}, "needs a method"),
        ({"method": "eagle"}, "must be one of ngram, draft_model"),
        ({"method": "draft_model"}, "needs a model"),
        ({"method": "ngram", "model": "x"}, "takes no model"),
        ({"method": "ngram", "num_speculative_token": 3}, "did you mean 'num_speculative_tokens'"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "from 1 to 32"),
        ({"method": "ngram", "num_speculative_tokens": True}, "from 1 to 32"),
        ({"method": "ngram", "adaptive": "yes"}, "true or false"),
    ],
)
def test_wrong_configurations(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeculativeConfig.parse(value)


def test_json_is_read() -> None:
    text = '{"method": "ngram", "num_speculative_tokens": 7, "prompt_lookup_min": 4}'
    assert SpeculativeConfig.parse(text) == SpeculativeConfig("ngram", None, 7, 4)
    assert SpeculativeConfig.parse(None) is None


def test_weights_and_drafts_share_the_memory_that_is_given() -> None:
    alone = LLM(kv_cache_memory_bytes=1 << 22)
    together = LLM(kv_cache_memory_bytes=1 << 22, speculative_config=DRAFT)
    assert together.engine.config.num_kv_blocks < alone.engine.config.num_kv_blocks
